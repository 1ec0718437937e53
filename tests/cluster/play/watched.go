package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"splitway.dev/cluster/load"
)

// A stranger has the dashboard open in a real browser, on one screen, while a canary goes wrong and its controller rolls it
// back. What happened is read from the texts on that screen and from nothing else; what they have to say is known from the
// API, from the answers that clients have got, and from the proxy's report.

// slowly leaves the browser some room. Five per cent of two such loads are enough for a verdict within the window.
func slowly(s *stage) error { return s.withTemplates(rate / 4) }

// unhurried looks every other second, so that somebody who watches sees the canary fail before it is judged.
var unhurried = analysis{"error-rate", []fields{
	argument("splitway", "http://"+gateway+":9090"), argument("interval", "2s"), argument("window", "10s"),
}}

// screen is what the browser shows at one moment.
type screen struct {
	// Without scrolling, and what a screen reader has to say.
	Screen, Aloud string
	Console       []string
}

// browser is a Chromium with one page, driven by tests/browser/watch.py.
type browser struct {
	command *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Scanner
}

// chromium is the program itself where the distribution has a wrapper, as in tests/browser/run; empty: there is none.
func chromium() string {
	for _, name := range []string{os.Getenv("CHROMIUM"), "/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome"} {
		if name == "" {
			continue
		}
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	return ""
}

func (s *stage) browse(program, url string) (*browser, error) {
	log, err := os.Create(filepath.Join(s.folder("logs"), "browser.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.CommandContext(s.ctx, "python3", filepath.Join(s.source, "..", "browser", "watch.py"), "--chromium", program, "--url", url)
	// The page says times of the day.
	command.Env = append(os.Environ(), "TZ=UTC")
	command.Stderr = log
	b := &browser{command: command}
	if b.ask, err = command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.answers = bufio.NewScanner(output)
	b.answers.Buffer(nil, 4<<20)
	if err := command.Start(); err != nil {
		return nil, err
	}
	if _, err := b.answer(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// answer is the next line. It comes or the program ends: each of its waits has a bound.
func (b *browser) answer() (one screen, err error) {
	if !b.answers.Scan() {
		return one, errors.Join(fmt.Errorf("the browser says nothing; see logs/browser.log"), b.answers.Err())
	}
	return one, json.Unmarshal(b.answers.Bytes(), &one)
}

func (b *browser) say(line string) (screen, error) {
	if _, err := fmt.Fprintln(b.ask, line); err != nil {
		return screen{}, err
	}
	return b.answer()
}

func (b *browser) close() error {
	return errors.Join(b.ask.Close(), b.command.Wait())
}

// says waits until the screen holds, keeps a picture of it, and returns its text.
func (s *stage) says(b *browser, picture string, holds func(text string) error) (string, error) {
	for bound := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		now, err := b.say("screen")
		if err != nil {
			return "", err
		}
		wrong := holds(now.Screen)
		if wrong == nil && holds(now.Aloud) != nil {
			wrong = fmt.Errorf("a screen reader is not told: %w", holds(now.Aloud))
		}
		if len(now.Console) > 0 {
			return "", fmt.Errorf("the browser's console: %v", now.Console)
		}
		switch {
		case wrong == nil:
			_, err := b.say("picture " + s.folder(picture))
			return now.Screen, err
		case time.Now().After(bound):
			_, _ = b.say("picture " + s.folder("failed-"+picture))
			return "", fmt.Errorf("%s: %w; the screen says:\n%s", picture, wrong, now.Screen)
		}
	}
}

func contains(parts ...string) func(string) error {
	return func(text string) error {
		for _, part := range parts {
			if !strings.Contains(text, part) {
				return fmt.Errorf("expected %q on the screen", part)
			}
		}
		return nil
	}
}

var (
	rolledBack = regexp.MustCompile(`Rolled back: canary (\w+) failed ([\d,]+) of ([\d,]+) requests`)
	weightBack = regexp.MustCompile(`weight went from 5 % back to 0 at (\d\d:\d\d:\d\d)`)
)

func watchedOnScreen(s *stage) error {
	program := chromium()
	if program == "" {
		s.say("SKIPPED: there is no Chromium here (Debian: apt-get install chromium)")
		return nil
	}
	if _, err := exec.LookPath("python3"); err != nil {
		s.say("SKIPPED: there is no python3 here")
		return nil
	}
	begun := time.Now()
	b, err := s.browse(program, "http://"+s.proxies[0].admin+"/")
	if err != nil {
		return err
	}
	defer func() { _ = b.close() }()
	if _, err := s.says(b, "before.png", contains("No rollout: all requests go to stable "+s.stable.hash, namespace+"/"+app)); err != nil {
		return err
	}
	if err := s.release(append(beside(&unhurried), walk("5 60s 100"), failOneIn("5"))...); err != nil {
		return err
	}
	bad := s.latest
	s.mayLose = func(r load.Record) bool { return r.Version == bad.name && r.Status >= 500 }
	if _, err := s.says(b, "during.png", contains("anary "+bad.hash, "requests failed there", "setWeight 5", "5 %")); err != nil {
		return err
	}
	total, err := s.total()
	if err != nil {
		return err
	}
	return all(
		func() error { return s.asked("aborted by its controller", s.stable, total, s.abortedBy(unhurried)) },
		func() error { return s.served(s.stable, total) },
		func() error { return s.more(300) },
		func() error { return s.toldOnScreen(b, bad, begun) },
		func() error { return s.harm(bad, unhurried, begun) },
		func() error { return s.rollouts("undo") },
		s.undone,
		func() error { return s.gone(bad) },
	)
}

// toldOnScreen wants the screen to say what became of the bad version, by whom, why, when and at whose cost.
func (s *stage) toldOnScreen(b *browser, bad version, begun time.Time) error {
	var run string
	var aborted time.Time
	err := s.until("the analysis that objected has a name", 10*time.Second, func(w *world) error {
		runs, err := w.analyses(bad.hash)
		if err != nil || len(runs) != 1 {
			return fmt.Errorf("expected one AnalysisRun of %s, found %+v (%v)", bad.hash, runs, err)
		}
		r, err := w.rollout(app)
		run, aborted = runs[0].Metadata.Name, r.Status.AbortedAt.UTC()
		return err
	})
	if err != nil {
		return err
	}
	met, failed := 0, 0
	for _, answer := range s.loads[0].Between(begun, time.Now()) {
		if answer.Version == bad.name {
			met++
			if answer.Status >= 500 {
				failed++
			}
		}
	}
	text, err := s.says(b, "after.png", func(text string) error {
		if err := contains(
			"The controller aborted the rollout", run, `"error-rate"`, "was bad 2 times, which is forgiven once",
			"status.canary.currentBackgroundAnalysisRunStatus", "status.abort", "All requests go to stable "+s.stable.hash,
		)(text); err != nil {
			return err
		}
		said := rolledBack.FindStringSubmatch(text)
		if said == nil || said[1] != bad.hash || number(said[2]) != failed || number(said[3]) != met {
			return fmt.Errorf("clients have got %d answers of %s, %d of them errors; the screen says %q", met, bad.hash, failed, said)
		}
		at := weightBack.FindStringSubmatch(text)
		if at == nil {
			return errors.New("expected the screen to say when the weight went back to 0")
		}
		// By the clock of the same machine; the controller's has whole seconds.
		back, err := time.Parse(time.TimeOnly, at[1])
		if err != nil {
			return err
		}
		late := back.Sub(time.Date(0, 1, 1, aborted.Hour(), aborted.Minute(), aborted.Second(), 0, time.UTC))
		if late < -time.Second || late > 5*time.Second {
			return fmt.Errorf("the rollout was aborted at %s, the screen says that the weight went back at %s", aborted.Format(time.TimeOnly), at[1])
		}
		return nil
	})
	if err != nil {
		return err
	}
	verdict, _, _ := strings.Cut(text[strings.Index(text, "Rolled back"):], "The canary's share")
	s.say("on one screen: %s", verdict)
	s.say("pictures: %s", s.folder("after.png"))
	return nil
}

// number as the page writes it: 1,234.
func number(text string) int {
	n, err := strconv.Atoi(strings.ReplaceAll(text, ",", ""))
	if err != nil {
		return -1
	}
	return n
}
