package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Record is one request.
type Record struct {
	Sent, Done time.Time // before its first byte was sent; after the last of the answer has come
	Version    string
	Status     int
	Lost       string // the cause; empty: answered, and right
}

// Book is all of them.
type Book struct {
	mu      sync.Mutex
	records []Record          // in the order in which they were done
	flying  map[int]time.Time // when those were sent that are not done
	next    int
	landed  *sync.Cond
}

func newBook(rate int) *Book {
	b := &Book{records: make([]Record, 0, 60*rate), flying: map[int]time.Time{}}
	b.landed = sync.NewCond(&b.mu)
	return b
}

func (b *Book) begin() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	b.flying[b.next] = time.Now()
	return b.next
}

func (b *Book) end(number int, a answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, Record{Sent: b.flying[number], Done: time.Now(), Version: a.version, Status: a.status, Lost: a.lost})
	delete(b.flying, number)
	b.landed.Broadcast()
}

// Count of what has been answered or lost.
func (b *Book) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.records)
}

// complete waits until everything that was sent before has been answered or lost, which is bounded by the timeout of one
// request, and gives all records.
func (b *Book) complete(before time.Time) []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	isOpen := func() bool {
		for _, sent := range b.flying {
			if sent.Before(before) {
				return true
			}
		}
		return false
	}
	for isOpen() {
		b.landed.Wait()
	}
	// What is there is never changed, so that sharing it is safe.
	return b.records[:len(b.records):len(b.records)]
}

// Between gives the requests that were sent from the one moment on, before the other, in the order of their sending.
func (b *Book) Between(from, to time.Time) []Record {
	var chosen []Record
	for _, r := range b.complete(to) {
		if !r.Sent.Before(from) && r.Sent.Before(to) {
			chosen = append(chosen, r)
		}
	}
	slices.SortFunc(chosen, func(a, b Record) int { return a.Sent.Compare(b.Sent) })
	return chosen
}

// Window is a stretch of the load whose ends are as sharp as can be.
type Window struct {
	From, To time.Time
	Requests int            // sent and answered in it
	Lost     int            // of them
	Versions map[string]int // of those that were answered
	// Requests that were under way at one of its ends. Nobody outside of the proxy knows whether they were routed within the
	// window, so that each of them makes every count uncertain by one.
	Unsure int
}

// slack is how far the ends of a window are moved in order to find a moment at which nothing is under way.
const slack = 300 * time.Millisecond

// Window counts what was sent and answered between two moments. Both are moved inwards, to the nearest moment at which no
// request was under way, or as few as possible.
func (b *Book) Window(from, to time.Time) Window {
	all := b.complete(to)
	w := Window{Versions: map[string]int{}}
	w.From, _ = quietest(all, from, from.Add(slack), false)
	w.To, _ = quietest(all, to.Add(-slack), to, true)
	for _, r := range all {
		switch {
		case !r.Sent.Before(w.From) && !r.Done.After(w.To):
			w.Requests++
			if r.Lost != "" {
				w.Lost++
			} else {
				w.Versions[r.Version]++
			}
		case r.Sent.Before(w.From) && r.Done.After(w.From), r.Sent.Before(w.To) && r.Done.After(w.To):
			w.Unsure++
		}
	}
	return w
}

// Off is by how many requests a version has got more than its weight, or less.
func (w Window) Off(version string, weight, total int) float64 {
	return float64(w.Versions[version]) - float64(weight)*float64(w.Requests)/float64(total)
}

// Bound is how far off a split may seem that is exact, which means: at any moment, what a version has got since the split
// began is less than one request away from its share. A window has two ends, each of which may be.
func (w Window) Bound() float64 { return 2 + float64(w.Unsure) }

// quietest is the first moment, or the last, between two at which the fewest requests are under way.
func quietest(all []Record, from, to time.Time, last bool) (best time.Time, underWay int) {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	now := 0
	for _, r := range all {
		if !r.Sent.Before(to) || r.Done.Before(from) {
			continue
		}
		if r.Sent.Before(from) {
			now++
		} else {
			changes = append(changes, change{r.Sent, 1})
		}
		if r.Done.Before(to) {
			changes = append(changes, change{r.Done, -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.by, b.by)) })
	best, underWay = from, now
	for _, c := range changes {
		now += c.by
		// Just after the event: the next one is later, or it belongs to the same moment and is counted in its turn.
		if now < underWay || last && now == underWay {
			best, underWay = c.at.Add(1), now
		}
	}
	return best, underWay
}

// LastOf is when the last request was sent that the version has answered, of those sent from the moment on.
func (b *Book) LastOf(version string, from, to time.Time) (last time.Time, any bool) {
	for _, r := range b.Between(from, to) {
		if r.Version == version {
			last, any = r.Sent, true
		}
	}
	return last, any
}

// FirstOf is when the first request was sent that the version has answered, of those sent from the moment on.
func (b *Book) FirstOf(version string, from, to time.Time) (time.Time, bool) {
	for _, r := range b.Between(from, to) {
		if r.Version == version {
			return r.Sent, true
		}
	}
	return time.Time{}, false
}

// Losses says what was lost, by cause, with the first moment of each after begun.
func Losses(records []Record, begun time.Time) string {
	type loss struct {
		count int
		first time.Time
	}
	by := map[string]loss{}
	for _, r := range records {
		if r.Lost == "" {
			continue
		}
		l, known := by[r.Lost]
		if !known {
			l.first = r.Sent
		}
		l.count++
		by[r.Lost] = l
	}
	text := ""
	for _, cause := range slices.SortedFunc(maps.Keys(by), func(a, b string) int { return by[a].first.Compare(by[b].first) }) {
		text += fmt.Sprintf("%6d  from %.3f s on: %s\n", by[cause].count, by[cause].first.Sub(begun).Seconds(), cause)
	}
	return text
}

// Timeline counts answers by version, and losses, per interval.
func Timeline(records []Record, begun time.Time, interval time.Duration) string {
	if len(records) == 0 {
		return ""
	}
	rows := map[int]map[string]int{}
	for _, r := range records {
		row := int(r.Sent.Sub(begun) / interval)
		if rows[row] == nil {
			rows[row] = map[string]int{}
		}
		name := r.Version
		if r.Lost != "" {
			name = "lost"
		}
		rows[row][name]++
	}
	text := ""
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		text += fmt.Sprintf("%8.3f", (time.Duration(row) * interval).Seconds())
		for _, name := range slices.Sorted(maps.Keys(rows[row])) {
			text += fmt.Sprintf("  %s %d", name, rows[row][name])
		}
		text += "\n"
	}
	return text
}

// Percentile of how long answers took, of those that came.
func Percentile(records []Record, part float64) time.Duration {
	var took []time.Duration
	for _, r := range records {
		if r.Lost == "" {
			took = append(took, r.Done.Sub(r.Sent))
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(len(took)-1, int(part*float64(len(took))))]
}
