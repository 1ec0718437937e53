package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"splitway.dev/cluster/load"
)

// killed ends all canary processes at once, with requests on them. Nobody can answer those; everybody else must not
// notice.
func killed(s *stage) error {
	if err := all(
		func() error { return s.release(walk("50 pause")) },
		func() error { return s.climb(500, 50) },
	); err != nil {
		return err
	}
	// Requests that take long enough to be under way when the processes end; half of them are there. They are of the kind
	// that must not be sent twice.
	const takes = 300 * time.Millisecond
	s.retried = true
	slow := load.Start(load.Settings{Target: s.proxies[0].listen, Rate: 100, Timeout: requestTimeout, Path: "/after/300ms"})
	stopped := false
	stop := func() {
		if !stopped {
			slow.Stop()
			stopped = true
		}
	}
	defer stop()
	for begun := time.Now(); slow.Count() < 50; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			return fmt.Errorf("slow requests are not answered: %d were", slow.Count())
		}
	}
	begun, dead, err := s.killAll(s.latest)
	if err != nil {
		return err
	}
	s.say("all canary processes have ended, within %v", dead.Sub(begun).Round(time.Millisecond))
	s.mayLose = func(r load.Record) bool { return underWay(r, dead) }
	err = s.until("they have been started again", 60*time.Second, func(w *world) error {
		pods, err := w.pods(s.latest.hash)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if c := pod.Status.ContainerStatuses; len(c) != 1 || c[0].RestartCount == 0 || !isReady(&pod) {
				return fmt.Errorf("pod %s: expected it to be ready after a restart", pod.Name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	stop()
	cut := 0
	for _, r := range slow.Between(begun.Add(-requestTimeout), time.Now()) {
		switch {
		case r.Lost == "":
		case underWay(r, dead):
			cut++
		default:
			return fmt.Errorf("a request of %v that was sent %v after the last process had ended was lost after %v: %s", takes, r.Sent.Sub(dead), r.Done.Sub(r.Sent), r.Lost)
		}
	}
	if cut == 0 {
		return fmt.Errorf("no request was under way on the killed processes: this proves nothing")
	}
	s.say("%d slow requests were under way there, and were answered 502 or 503", cut)
	return all(
		func() error { return s.arrive(1, 50) },
		func() error { return s.share(s.latest, 50, 1000) },
		func() error { return s.promote() },
		s.finish,
	)
}

// underWay is for a request that was with a process when it ended: sent before, answered with an error, and soon.
func underWay(r load.Record, dead time.Time) bool {
	return r.Sent.Before(dead) && (r.Status == 502 || r.Status == 503) && r.Done.Sub(dead) < 2*time.Second
}

// killAll ends the processes of a version, and gives the moments before the first end and after the last.
func (s *stage) killAll(v version) (begun, dead time.Time, err error) {
	var numbers []int
	err = s.world.until(s.ctx, "its processes", 10*time.Second, func(w *world) error {
		numbers = nil
		pods, err := w.pods(v.hash)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			for _, c := range pod.Status.ContainerStatuses {
				number, err := strconv.Atoi(strings.TrimPrefix(c.ContainerID, "process://"))
				if err != nil {
					return fmt.Errorf("pod %s has no process: %w", pod.Name, err)
				}
				numbers = append(numbers, number)
			}
		}
		if numbers == nil {
			return fmt.Errorf("%s has no process", v.name)
		}
		return nil
	})
	if err != nil {
		return begun, dead, err
	}
	s.world.did(fmt.Sprintf("kill the processes of %s: %v", v.name, numbers))
	begun = time.Now()
	for _, number := range numbers {
		if err := syscall.Kill(number, syscall.SIGKILL); err != nil {
			return begun, dead, err
		}
	}
	for _, number := range numbers {
		for syscall.Kill(number, 0) == nil {
			if time.Since(begun) > 5*time.Second {
				return begun, dead, fmt.Errorf("process %d has not ended within 5 s of SIGKILL", number)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return begun, time.Now(), nil
}
