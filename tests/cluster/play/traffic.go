package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"splitway.dev/cluster/load"
)

// score is a line of the table at the end.
type score struct {
	scenario string
	requests int
	lost     int
	expected int     // of the lost: what the scenario made fail
	worst    float64 // how many requests a settled share was off, at most
	windows  int     // in which shares were looked at
	slow     time.Duration
	took     time.Duration
	err      error
}

// takeover is one change of weights, from the API to the proxy.
type takeover struct {
	what string
	// Between our own watch's event and the live snapshot, by the proxy's log. Negative: the proxy was told first.
	live time.Duration
	// Between the event and the sending of the last request under the old weight, where an answer shows that it was one.
	last *time.Duration
}

// total is what the Rollout's weights are parts of.
func (s *stage) total() (total int, err error) {
	err = s.world.until(s.ctx, "the Rollout", 10*time.Second, func(w *world) error {
		r, err := w.rollout(app)
		total = r.total()
		return err
	})
	return total, err
}

// asked waits until the Rollout holds, and asks for so much for the version. That is the truth; the proxies come next.
func (s *stage) asked(what string, v version, weight int, holds func(rollout) error) error {
	return s.until(fmt.Sprintf("%s: %d for %s is asked for", what, weight, v.name), 60*time.Second, func(w *world) error {
		r, err := w.rollout(app)
		if err != nil {
			return err
		}
		if err := holds(r); err != nil {
			return err
		}
		if asks := r.asks(s.scene.mode, v.hash); asks != weight {
			return fmt.Errorf("%d is asked for, with %s", asks, r.describe())
		}
		return nil
	})
}

// paused wants a pause step, with the latest version under way.
func (s *stage) paused(step int32) func(rollout) error {
	return func(r rollout) error {
		at := r.Status.CurrentStepIndex
		if r.Status.Phase != "Paused" || r.Status.Message != "CanaryPauseStep" || at == nil || *at != step {
			return fmt.Errorf("expected Paused (CanaryPauseStep) at step %d, found %s", step, r.describe())
		}
		if r.Status.StableRS != s.stable.hash || r.Status.CurrentPodHash != s.latest.hash || !r.observed() {
			return fmt.Errorf("expected %v to be stable and %v to be on its way, found %s", s.stable, s.latest, r.describe())
		}
		return nil
	}
}

// arrive waits for a pause step and its weight, in the API and then in every proxy.
func (s *stage) arrive(step int32, weight int) error {
	if err := s.asked(fmt.Sprintf("step %d", step), s.latest, weight, s.paused(step)); err != nil {
		return err
	}
	return s.served(s.latest, weight)
}

// served waits until every proxy serves what the API asks for, and notes how long that took.
func (s *stage) served(v version, weight int) error {
	total, err := s.total()
	if err != nil {
		return err
	}
	for _, w := range s.proxies {
		if err := w.serves(v.hash, weight, total); err != nil {
			return err
		}
	}
	return s.noteTakeover(v, weight, total)
}

// share is the heart of it: of so many requests on each load, sent from now on, the version must get its weight, exactly,
// by the answers and by the proxies' own accounts, and nothing may be lost.
func (s *stage) share(v version, weight, requests int) error {
	total, err := s.total()
	if err != nil {
		return err
	}
	windows, err := s.windows(requests)
	if err != nil {
		return err
	}
	var sum, bound float64
	for _, w := range windows {
		off := w.Off(v.name, weight, total)
		sum, bound = sum+off, bound+w.Bound()
		if w.Lost > 0 {
			return fmt.Errorf("%d of %d requests were lost while nothing changed", w.Lost, w.Requests)
		}
		if math.Abs(off) > w.Bound() {
			return fmt.Errorf("%d of %d: expected %.2f of %d requests for %s, found %d; the bound is %.0f, as %d were under way at the ends; all: %v",
				weight, total, float64(weight)*float64(w.Requests)/float64(total), w.Requests, v.name, w.Versions[v.name], w.Bound(), w.Unsure, w.Versions)
		}
		s.score.windows++
		if w.Unsure == 0 {
			s.score.worst = max(s.score.worst, math.Abs(off))
		}
		s.say("%s: %d of %d requests, off by %+.2f (bound %.0f)", v.name, w.Versions[v.name], w.Requests, off, w.Bound())
	}
	if len(windows) > 1 && math.Abs(sum) > max(2, bound) {
		return fmt.Errorf("together they are off by %+.2f", sum)
	}
	for _, w := range s.proxies {
		if err := errors.Join(w.serves(v.hash, weight, total), w.exact(s.newest, 1)); err != nil {
			return fmt.Errorf("after the window: %w", err)
		}
	}
	return nil
}

// windows are one for each load, which begin now. If the machine was so busy that their ends are not sharp, others are
// taken, a few times.
func (s *stage) windows(requests int) (windows []load.Window, err error) {
	const unsharp, tries = 5, 4
	for range tries {
		from := time.Now()
		if err := s.more(requests); err != nil {
			return nil, err
		}
		windows = nil
		unsure := 0
		for _, l := range s.loads {
			w := l.Window(from, time.Now())
			windows, unsure = append(windows, w), max(unsure, w.Unsure)
		}
		if unsure <= unsharp {
			break
		}
	}
	return windows, nil
}

// more waits until so many requests have been answered at the full rate; slower loads are not waited for longer. Patience:
// three times what they should take, and some.
func (s *stage) more(requests int) error {
	bound := time.After(3*time.Duration(requests)*time.Second/rate + 10*time.Second)
	wanted := make([]int, len(s.loads))
	for i, l := range s.loads {
		wanted[i] = l.Count() + requests*l.Rate/rate
	}
	for i, l := range s.loads {
		if err := s.reaches(l, wanted[i], bound); err != nil {
			return err
		}
	}
	return nil
}

// reaches waits until a load has got so many answers since its start.
func (s *stage) reaches(l *load.Load, answers int, bound <-chan time.Time) error {
	for l.Count() < answers {
		select {
		case <-bound:
			return fmt.Errorf("requests to %s take too long: %d answers of %d have come", l.Target, l.Count(), answers)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// only wants that since the moment nobody but the version has answered.
func (s *stage) only(v version, since time.Time) error {
	for _, l := range s.loads {
		for _, r := range l.Between(since, time.Now()) {
			if r.Lost == "" && r.Version != v.name {
				return fmt.Errorf("%s has answered a request that was sent %v after all was to go to %s", r.Version, r.Sent.Sub(since), v.name)
			}
		}
	}
	return nil
}

// back wants all traffic at the stable version: after an abort, or an undo.
func (s *stage) back(what string, holds func(rollout) error) error {
	total, err := s.total()
	if err != nil {
		return err
	}
	if err := s.asked(what, s.stable, total, holds); err != nil {
		return err
	}
	if err := s.served(s.stable, total); err != nil {
		return err
	}
	since := time.Now()
	return errors.Join(s.share(s.stable, total, 500), s.only(s.stable, since))
}

// finish wants the latest version to be promoted, and all traffic there.
func (s *stage) finish() error {
	total, err := s.total()
	if err != nil {
		return err
	}
	err = s.asked("promoted", s.latest, total, func(r rollout) error {
		if r.Status.Phase != "Healthy" || !r.observed() || r.Status.StableRS != s.latest.hash || r.Status.CurrentPodHash != s.latest.hash {
			return fmt.Errorf("expected %v to be stable, found %s", s.latest, r.describe())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.served(s.latest, total); err != nil {
		return err
	}
	since := time.Now()
	s.silence = &silence{s.latest, since}
	s.stable = s.latest
	return errors.Join(s.share(s.latest, total, 300), s.only(s.latest, since))
}

// accounts wants the proxies' counts to be the clients' own: what each version was chosen for is what it has answered. For
// that the load rests for a moment. Each proxy has as many ports as it has loads.
func (s *stage) accounts() error {
	if s.retried || len(s.proxies) == 0 || len(s.loads)%len(s.proxies) != 0 {
		return nil
	}
	for _, l := range s.loads {
		l.Pause()
		defer l.Resume()
	}
	each := len(s.loads) / len(s.proxies)
	for i, w := range s.proxies {
		p, err := w.picture()
		if err != nil {
			return err
		}
		if len(p.Ports) != each {
			return fmt.Errorf("%s shows %d ports, expected %d", w.name, len(p.Ports), each)
		}
		for j, port := range p.Ports {
			answered := map[string]int64{}
			for _, r := range s.loads[i*each+j].Between(time.Time{}, time.Now()) {
				if r.Version != "" && r.Sent.After(w.begun) {
					answered[r.Version]++
				}
			}
			chosen := map[string]int64{}
			for _, v := range port.Split.Versions {
				if v.Sent > 0 {
					chosen[s.names[v.Version]] += v.Sent
				}
			}
			if !maps.Equal(chosen, answered) {
				return fmt.Errorf("%s, port %q: it has chosen versions so many times: %v; they have answered: %v", w.name, port.Port, chosen, answered)
			}
		}
	}
	return nil
}

// silence of all versions but one since a moment: what a promotion means, until the next release.
type silence struct {
	of    version
	since time.Time
}

func (s *stage) stillSilent() error {
	silent := s.silence
	s.silence = nil
	if silent == nil {
		return nil
	}
	return s.only(silent.of, silent.since)
}

// noteTakeover finds out how long ago the API has changed, and when the proxies have followed.
func (s *stage) noteTakeover(v version, weight, total int) error {
	var at time.Time
	err := s.world.until(s.ctx, "the change", time.Millisecond, func(w *world) error {
		begun, asks, err := w.since(s.scene.mode, v.hash, s.mark)
		if err == nil && asks != weight {
			err = fmt.Errorf("%d is asked for", asks)
		}
		at = begun
		return err
	})
	if err != nil {
		return nil // it has not changed, or again meanwhile: nothing can be said
	}
	for i, w := range s.proxies {
		live, err := w.liveSince(at.Add(-time.Second), v.hash, weight, total)
		if err != nil || live.IsZero() {
			return err
		}
		t := takeover{what: fmt.Sprintf("%s: %d for %s", s.score.scenario, weight, v.name), live: live.Sub(at)}
		// Requests were answered by others until then, or by the version itself: such an answer is the last of the old weight.
		for _, r := range slices.Backward(s.loads[min(i, len(s.loads)-1)].Between(at.Add(-time.Second), time.Now())) {
			if r.Lost == "" && (weight == total && r.Version != v.name || weight == 0 && r.Version == v.name) {
				last := r.Sent.Sub(at)
				t.last = &last
				break
			}
		}
		s.takeovers = append(s.takeovers, t)
	}
	return nil
}

// liveSince is when a snapshot with this weight went live first, after a moment, by the proxy's log.
func (w *splitway) liveSince(after time.Time, hash string, weight, total int) (time.Time, error) {
	file, err := os.Open(w.log)
	if err != nil {
		return time.Time{}, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Timestamp time.Time
			Fields    struct{ Message, Split string }
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Fields.Message != "snapshot is live" || line.Timestamp.Before(after) {
			continue
		}
		if shows(line.Fields.Split, hash, weight, total) {
			return line.Timestamp, nil
		}
	}
	return time.Time{}, lines.Err()
}

// shows reads a split as the log writes it: "7d7d6797f5 67, 667d764b44 33 of 100".
// Of several ports the first will do: they change together.
func shows(split, hash string, weight, total int) bool {
	split, _, _ = strings.Cut(split, "; ")
	if _, after, named := strings.Cut(split, ": "); named {
		split = after
	}
	parts, whole, found := strings.Cut(split, " of ")
	of, err := strconv.Atoi(whole)
	if !found || err != nil {
		return false
	}
	got := 0
	for _, part := range strings.Split(parts, ", ") {
		if name, number, _ := strings.Cut(part, " "); name == hash {
			if got, err = strconv.Atoi(number); err != nil {
				return false
			}
		}
	}
	return got*total == weight*of
}

// summary prints the table, and how fast changes were taken over.
func (p *plane) summary() {
	fmt.Printf("\n%-26s %9s %6s %9s %8s %8s %7s\n", "scenario", "requests", "lost", "off by", "windows", "p99", "time")
	for _, s := range p.scores {
		lost := fmt.Sprint(s.lost)
		if s.expected > 0 {
			lost = fmt.Sprintf("%d+%d", s.lost-s.expected, s.expected)
		}
		row := fmt.Sprintf("%-26s %9d %6s %9.2f %8d %8s %6.1fs", s.scenario, s.requests, lost, s.worst, s.windows,
			s.slow.Round(100*time.Microsecond), s.took.Seconds())
		if s.err != nil {
			row += "  FAILED"
		}
		fmt.Println(row)
	}
	fmt.Println("lost: A+B are A without a reason, and B that a scenario has made fail: with a killed pod, or by a canary that goes wrong; off by: requests, at worst, in windows with sharp ends")
	if p.followed > 0 {
		fmt.Printf("by the proxies' own metric: %d of %d changes were in force within 100 ms of the API's news\n", p.soon, p.followed)
	}
	p.showTakeovers("the live snapshot", func(t takeover) *time.Duration { return &t.live })
	p.showTakeovers("the last request under the old weight", func(t takeover) *time.Duration { return t.last })
}

func (p *plane) showTakeovers(until string, of func(takeover) *time.Duration) {
	known := slices.DeleteFunc(slices.Clone(p.takeovers), func(t takeover) bool { return of(t) == nil })
	if len(known) == 0 {
		return
	}
	slices.SortFunc(known, func(a, b takeover) int { return cmp.Compare(*of(a), *of(b)) })
	at := func(part float64) time.Duration {
		return of(known[min(len(known)-1, int(part*float64(len(known))))]).Round(10 * time.Microsecond)
	}
	most := known[len(known)-1]
	fmt.Printf("from a change in the API to %s, as seen by a second watcher: %d changes, median %v, p99 %v, most %v (%s)\n",
		until, len(known), at(0.5), at(0.99), at(1), most.what)
}

// noteMetrics reads what the proxy itself says of how fast it followed.
func (s *stage) noteMetrics() error {
	for _, w := range s.proxies {
		all, err := w.metric("splitway_rollout_propagation_seconds_count")
		if err != nil {
			return err
		}
		soon, err := w.metricLine("splitway_rollout_propagation_seconds_bucket", `le="0.1"`)
		if err != nil {
			return err
		}
		s.followed += int(all)
		s.soon += int(soon)
	}
	return nil
}

// losses judges what was lost in this scenario, and puts it into its score. A timeline of the load goes beside the logs.
func (s *stage) losses() error {
	var failed error
	for i, l := range s.loads {
		records := l.Between(s.begun, time.Now())
		s.score.requests += len(records)
		s.score.slow = max(s.score.slow, load.Percentile(records, 0.99))
		file := s.folder(fmt.Sprintf("logs/%s-load-%d.txt", strings.ReplaceAll(s.score.scenario, "/", "-"), i))
		failed = errors.Join(failed, os.WriteFile(file, []byte(load.Timeline(records, s.world.begun, 50*time.Millisecond)), 0o644))
		bad := records[:0:0]
		for _, r := range records {
			if r.Lost == "" {
				continue
			}
			s.score.lost++
			if s.mayLose != nil && s.mayLose(r) {
				s.score.expected++
			} else {
				bad = append(bad, r)
			}
		}
		if len(bad) > 0 {
			failed = errors.Join(failed, fmt.Errorf("%d of %d requests were lost (a timeline is in %s; seconds are the recording's):\n%s",
				len(bad), len(records), file, load.Losses(bad, s.world.begun)))
		}
	}
	return failed
}
