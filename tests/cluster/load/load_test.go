package load

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// split gives the canary every third request, and does to a request what wrong says.
func split(t *testing.T, wrong func(number int64, w http.ResponseWriter, body []byte) bool) string {
	var number atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		version := "v1"
		n := number.Add(1)
		if n%3 == 0 {
			version = "v2"
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("app-version", version)
		if wrong(n, w, body) {
			return
		}
		if r.Method == http.MethodGet {
			body = []byte("hello from the " + version + " version\n")
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func nothing(int64, http.ResponseWriter, []byte) bool { return false }

func waitFor(t *testing.T, l *Load, count int) []Record {
	bound := time.Now().Add(30 * time.Second)
	for time.Now().Before(bound) {
		if records := l.Between(time.Time{}, time.Now()); len(records) >= count {
			return records
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d requests have not been answered within 30 s", count)
	return nil
}

func TestAnExactSplitIsSeenAsExact(t *testing.T) {
	begun := time.Now()
	l := Start(Settings{Target: split(t, nothing), Rate: 1000, Timeout: 5 * time.Second})
	waitFor(t, l, 900)
	w := l.Window(begun, time.Now())
	l.Stop()
	if w.Lost > 0 || w.Requests == 0 {
		t.Fatalf("%+v\n%s", w, Losses(l.Between(begun, time.Now()), begun))
	}
	if off := w.Off("v2", 1, 3); math.Abs(off) > w.Bound() {
		t.Errorf("off by %.2f, bound %.2f: %+v", off, w.Bound(), w)
	}
}

func TestWhatIsWrongIsLostAndNothingElse(t *testing.T) {
	cut := func(n int64, w http.ResponseWriter, body []byte) bool {
		switch {
		case n == 50:
			panic(http.ErrAbortHandler)
		case n == 60:
			w.Header().Set("x-splitway-reason", "no_endpoint")
			http.Error(w, "nobody is there", http.StatusServiceUnavailable)
		case n >= 70 && len(body) == 1000:
			body[500]++
			_, _ = w.Write(body)
		case n == 80:
			w.Header().Del("app-version")
			return false
		default:
			return false
		}
		return true
	}
	begun := time.Now()
	l := Start(Settings{Target: split(t, cut), Rate: 500, Timeout: 5 * time.Second})
	waitFor(t, l, 200)
	l.Stop()
	told := Losses(l.Between(begun, time.Now()), begun)
	for _, cause := range []string{"connection: closed", "503 no_endpoint: nobody is there", "a wrong body of 1000 bytes, expected 1000", "the answer names no version"} {
		if !strings.Contains(told, cause) {
			t.Errorf("%q is not among the losses:\n%s", cause, told)
		}
	}
	if lines := strings.Count(told, "\n"); lines != 4 {
		t.Errorf("expected 4 causes:\n%s", told)
	}
}

func TestAHangingServerMakesNoRequestWait(t *testing.T) {
	release := make(chan struct{})
	hang := func(n int64, _ http.ResponseWriter, _ []byte) bool {
		if n > 20 && n <= 60 {
			<-release
		}
		return false
	}
	begun := time.Now()
	l := Start(Settings{Target: split(t, hang), Rate: 500, Timeout: time.Second})
	bound := time.Now().Add(30 * time.Second)
	for l.Count() < 200 && time.Now().Before(bound) {
		time.Sleep(time.Millisecond)
	}
	close(release)
	l.Pause()
	l.Disconnect()
	l.Resume()
	l.Stop()
	if records := l.Between(begun, time.Now()); len(records) < 200 {
		t.Errorf("%d requests were answered while 40 hung", len(records))
	}
}

func TestWhatWasUnderWayAtAnEndIsUnsure(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	b := newBook(1)
	add := func(sent, done int, version string) {
		b.records = append(b.records, Record{Sent: at(sent), Done: at(done), Version: version})
	}
	add(0, 1, "v1")
	add(10, 12, "v1")
	add(2000, 2005, "v2")
	add(2004, 2006, "v1")
	w := b.Window(at(0), at(2100))
	if w.Requests != 4 || w.Unsure != 0 || w.Versions["v1"] != 3 {
		t.Errorf("all are inside: %+v", w)
	}
	if off := w.Off("v2", 1, 4); off != 0 {
		t.Errorf("one of four is a quarter, not off by %v", off)
	}
	if off := w.Off("v2", 100, 100); off != -3 || -off <= w.Bound() {
		t.Errorf("one of four is three too few for all, and that shows: off by %v, bound %v", off, w.Bound())
	}
	// At every moment one of a second load is under way.
	add(-10_000, 10_000, "v1")
	if w = b.Window(at(0), at(2100)); w.Requests != 4 || w.Unsure != 1 {
		t.Errorf("one is under way at both ends: %+v", w)
	}
	if last, any := b.LastOf("v2", at(0), at(3000)); !any || !last.Equal(at(2000)) {
		t.Errorf("the last of v2 was sent at 2000 ms, not %v", last)
	}
	if _, any := b.FirstOf("v1", at(2005), at(3000)); any {
		t.Error("after 2005 ms v1 answers nothing")
	}
}
