package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// account is who the proxy is for the API server.
const account = "system:serviceaccount:services:splitway"

// splitway is one proxy, a process beside the pods and not one of them: it lives through whatever a scenario does to the
// API.
type splitway struct {
	child
	stage         *stage
	listen, admin string
	begun         time.Time // of its last start: its counts begin there
}

// startSplitway returns when the proxy says that it is ready. The port may have the name of an application's port behind
// it, 8080=http.
func (s *stage) startSplitway(name, kubeconfig, host, port string, arguments ...string) (*splitway, error) {
	number, _, _ := strings.Cut(port, "=")
	w := &splitway{stage: s, listen: host + ":" + number, admin: host + ":9090"}
	w.child = child{
		name: name, log: filepath.Join(s.folder("logs"), s.scene.name+"-"+name+".log"), unexpected: s.world.fail,
		env: append(slices.Clone(s.env), "POD_IP="+host),
		argv: append([]string{
			filepath.Join(s.binaries, "splitway"), "run", "--rollout", namespace + "/" + app, "--kubeconfig", kubeconfig,
			"--listen", host + ":" + port, "--admin", w.admin,
		}, arguments...),
	}
	if err := w.run(); err != nil {
		return nil, err
	}
	s.proxies = append(s.proxies, w)
	return w, w.ready()
}

func (w *splitway) run() error {
	w.begun = time.Now()
	return w.start()
}

func (w *splitway) ready() error {
	return w.until("splitway is ready", 20*time.Second, func() error {
		_, err := w.ask("/readyz")
		return err
	})
}

// until asks again until holds finds nothing wrong, and otherwise says what it found wrong last.
func (w *splitway) until(what string, within time.Duration, holds func() error) error {
	ctx, cancel := context.WithTimeoutCause(w.stage.ctx, within, fmt.Errorf("not within %v", within))
	defer cancel()
	for {
		wrong := holds()
		if wrong == nil {
			return nil
		}
		select {
		case <-w.ended:
			return fmt.Errorf("%s: %s has ended; its last lines:\n%s", what, w.name, lastLines(w.log))
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), wrong)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// askAdmin keeps its connections, unlike client: the admin listener is asked often.
var askAdmin = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 4}}

// ask gets 200 and the text from the admin listener.
func (w *splitway) ask(path string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+w.admin+path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("accept", "application/json")
	answer, err := askAdmin.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: expected 200, found %s: %s", w.admin, path, answer.Status, strings.TrimSpace(string(text)))
	}
	return string(text), err
}

// metric is the sum over all labels.
func (w *splitway) metric(name string) (float64, error) { return w.metricLine(name, "") }

// metricLine is the sum over all labels among which there is one.
func (w *splitway) metricLine(name, label string) (sum float64, err error) {
	text, err := w.ask("/metrics")
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(text) {
		last := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if last < 0 {
			continue
		}
		of, value := line[:last], strings.TrimSpace(line[last+1:])
		if of != name && !strings.HasPrefix(of, name+"{") || !strings.Contains(of, label) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %q: %w", line, err)
		}
		sum, found = sum+number, true
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", w.name, name)
	}
	return sum, nil
}

// shows waits until a metric has the value.
func (w *splitway) shows(name string, value float64) error {
	return w.until(fmt.Sprintf("%s shows %s %v", w.name, name, value), 20*time.Second, func() error {
		is, err := w.metric(name)
		if err == nil && is != value {
			err = fmt.Errorf("it is %v", is)
		}
		return err
	})
}

// picture is the part of /config that scenarios look at.
type picture struct {
	Generation uint64
	State      string
	Notes      []string
	Refused    *struct{ Message string }
	Ports      []struct {
		Port  string
		Split split
	}
}

// split is the proxy's own account.
type split struct {
	Total    int
	Requests int64
	Versions []struct {
		Version string
		Role    string
		Weight  int
		Sent    int64
		Off     float64 `json:"error_in_requests"`
	}
}

func (w *splitway) picture() (p picture, err error) {
	text, err := w.ask("/config")
	if err == nil {
		err = json.Unmarshal([]byte(text), &p)
	}
	return p, err
}

func (s *split) weight(hash string) int {
	for _, v := range s.Versions {
		if v.Version == hash {
			return v.Weight
		}
	}
	return 0
}

func (p *picture) describe() string {
	text := fmt.Sprintf("generation %d", p.Generation)
	for _, port := range p.Ports {
		text += fmt.Sprintf("; port %q, of %d:", port.Port, port.Split.Total)
		for _, v := range port.Split.Versions {
			if v.Weight > 0 || v.Role != "" {
				text += fmt.Sprintf(" %s (%s) %d", v.Version, v.Role, v.Weight)
			}
		}
	}
	if p.Refused != nil {
		text += "; refused: " + p.Refused.Message
	}
	if len(p.Notes) > 0 {
		text += "; notes: " + strings.Join(p.Notes, "; ")
	}
	return text
}

// serves waits until the proxy gives so much of the total to the version, at each port, and all else to others.
func (w *splitway) serves(hash string, weight, total int) error {
	what := fmt.Sprintf("%s serves %d of %d for %s", w.name, weight, total, hash)
	return w.until(what, 10*time.Second, func() error {
		p, err := w.picture()
		if err != nil {
			return err
		}
		for _, port := range p.Ports {
			if port.Split.weight(hash)*total != weight*port.Split.Total {
				return fmt.Errorf("it serves %s", p.describe())
			}
		}
		if len(p.Ports) == 0 {
			return fmt.Errorf("it serves nothing: %s", p.describe())
		}
		return nil
	})
}

// exact waits until the proxy's own account shows that the newest version is less than one request away from what it should
// have got, for each choice that leads to it, and the others less than one for each version that came and went beside them:
// what a version leaves behind, when it goes, stays with those that remain. A request between two counters may make it
// look worse for a moment.
func (w *splitway) exact(newest string, choices int) error {
	return w.until("the account of "+w.name, 5*time.Second, func() error {
		p, err := w.picture()
		if err != nil {
			return err
		}
		for _, port := range p.Ports {
			for _, v := range port.Split.Versions {
				bound := float64(choices)
				if v.Version != newest {
					bound *= float64(len(w.stage.names))
				}
				if v.Off > bound || v.Off < -bound {
					return fmt.Errorf("%s has got %+.2f requests more than it should (%s)", v.Version, v.Off, p.describe())
				}
			}
		}
		return nil
	})
}
