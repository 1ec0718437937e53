package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// verdicts of the shipped AnalysisTemplates, as the real controller finds them. Prometheus and the proxy's gates are doubles
// with one answer for each version: what the queries mean, a real Prometheus tells (tests/prometheus).
func verdicts(s *stage) error {
	d := &double{}
	listener, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: d}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	address := "http://" + listener.Addr().String()

	if err := s.apply("restricted.yaml"); err != nil {
		return err
	}
	folder, err := s.kustomization("verdicts", nil, []string{"components/analysis"})
	if err != nil {
		return err
	}
	if err := patched(folder, quickly); err != nil {
		return err
	}
	if _, err := s.do("apply", "-k", folder); err != nil {
		return err
	}
	runs := []struct {
		template, name, phase string
		arguments             []string
	}{
		{"success-rate", "rate-good", "Running", []string{"hash=good"}},
		{"success-rate", "rate-bad", "Failed", []string{"hash=bad"}},
		{"success-rate", "rate-bad-but-enough", "Running", []string{"hash=bad", "at-least=0.4"}},
		{"success-rate", "rate-nothing", "Inconclusive", []string{"hash=nothing"}},
		{"success-rate", "rate-nan", "Inconclusive", []string{"hash=nan"}},
		{"latency", "latency-good", "Running", []string{"hash=good", "at-most=1"}},
		{"latency", "latency-bad", "Failed", []string{"hash=bad", "at-most=0.4"}},
		{"latency", "latency-nothing", "Inconclusive", []string{"hash=nothing"}},
		{"canary-against-stable", "against-good", "Running", []string{"canary=good", "stable=other", "at-most=1"}},
		{"canary-against-stable", "against-bad", "Failed", []string{"canary=bad", "stable=other"}},
		{"canary-against-stable", "against-nothing", "Inconclusive", []string{"canary=nothing", "stable=other"}},
		{"verify", "verify-yes", "Successful", []string{"weight=25", "hash=new"}},
		{"verify", "verify-no", "Error", []string{"weight=50", "hash=new"}},
		{"drained", "drained-yes", "Successful", []string{"hash=idle"}},
		// It never is, and the rollout goes on all the same.
		{"drained", "drained-no", "Successful", []string{"hash=busy"}},
	}
	for _, run := range runs {
		where := "prometheus=" + address
		if run.template == "verify" || run.template == "drained" {
			where = "splitway=" + address
		}
		command := []string{"argo", "rollouts", "create", "analysisrun", "-n", namespace, "--from", "splitway-" + run.template, "--name", run.name, "-a", where}
		for _, argument := range run.arguments {
			command = append(command, "-a", argument)
		}
		if _, err := s.do(command...); err != nil {
			return err
		}
	}
	err = s.until("every run has its verdict", 90*time.Second, func(w *world) error {
		var all []error
		for _, run := range runs {
			r, err := as[struct {
				Status struct {
					Phase, Message string
					MetricResults  []struct {
						Count, Successful, ConsecutiveError int
						Message                             string
					}
				}
			}](w, "AnalysisRun", run.name)
			results := r.Status.MetricResults
			switch {
			case err != nil:
			case r.Status.Phase != run.phase:
				err = fmt.Errorf("%s: expected %s, found %s (%s) %+v", run.name, run.phase, r.Status.Phase, r.Status.Message, results)
			case run.phase == "Running" && (len(results) != 1 || results[0].Successful < 3):
				// Without a number of measurements it runs until the update is over.
				err = fmt.Errorf("%s: expected three good measurements, found %+v", run.name, results)
			case run.name == "drained-no" && (len(results) != 1 || results[0].Successful != 0):
				err = fmt.Errorf("%s: expected no success, found %+v", run.name, results)
			}
			all = append(all, err)
		}
		return errors.Join(all...)
	})
	return errors.Join(err, d.complaints())
}

// An analysis short enough for a test: the limits stay, the waiting goes.
const quickly = `  - target: { kind: AnalysisTemplate, name: splitway-(success-rate|latency|canary-against-stable) }
    patch: '[{"op": "replace", "path": "/spec/metrics/0/interval", "value": "1s"}, {"op": "replace", "path": "/spec/metrics/0/initialDelay", "value": "0s"}]'
  - target: { kind: AnalysisTemplate, name: splitway-(verify|drained) }
    patch: '[{"op": "replace", "path": "/spec/metrics/0/consecutiveErrorLimit", "value": 1}]'
`

// double is that of Prometheus and of an admin listener.
type double struct {
	mu    sync.Mutex
	wrong []error
}

var versionAsked = regexp.MustCompile(`version="(\w+)"`)

func (a *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.URL.Path {
	case "/api/v1/query":
		query := r.FormValue("query")
		if strings.Contains(query, "{{") {
			a.wrong = append(a.wrong, fmt.Errorf("an argument was not replaced: %s", query))
		}
		value := map[string]string{"good": "0.995", "bad": "0.5", "nan": "NaN"}
		vector := ""
		for _, found := range versionAsked.FindAllStringSubmatch(query, -1) {
			if number, known := value[found[1]]; known {
				vector = fmt.Sprintf(`{"metric": {}, "value": [1700000000, %q]}`, number)
			}
		}
		w.Header().Set("content-type", "application/json")
		fmt.Fprintf(w, `{"status": "success", "data": {"resultType": "vector", "result": [%s]}}`, vector)
	case "/verify":
		if q := r.URL.Query(); q.Get("all") == "true" && (q.Get("weight") == "25" && q.Get("version") == "new" || q.Get("drained") == "idle") {
			fmt.Fprint(w, `{"verified": true}`)
			return
		}
		http.Error(w, `{"verified": false}`, http.StatusServiceUnavailable)
	default:
		http.NotFound(w, r)
	}
}

func (a *double) complaints() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.wrong...)
}
