package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"splitway.dev/cluster/load"
)

// The controller judges a canary by the shipped AnalysisTemplates, and nobody else does anything: a bad one is rolled back
// by itself, a good one is promoted. The templates are as they are shipped; how often they ask, and how far they look back, is
// said by their arguments.

// judged is a Rollout whose next version can be made to fail a part of its requests.
func judged(rollout fields) {
	canary(fields{})(rollout)
	pod := rollout["spec"].(fields)["template"].(fields)["spec"].(fields)
	container := pod["containers"].([]any)[0].(fields)
	container["env"] = append(container["env"].([]any), fields{"name": "FAIL_ONE_IN", "value": ""})
}

func failOneIn(n string) change {
	return change{"add", "/spec/template/spec/containers/0/env/2/value", n}
}

// twoWithTemplates are two proxies behind a Service of their own, each with a load, and the AnalysisTemplates.
func twoWithTemplates(s *stage) error { return s.withTemplates(rate) }

func (s *stage) withTemplates(rate int) error {
	folder, err := s.kustomization("judged", nil, []string{"components/analysis"})
	if err != nil {
		return err
	}
	// Half a minute of patience before the first look is for a slower scrape.
	if err := patched(folder, `  - target: { kind: AnalysisTemplate, name: splitway-(success-rate|canary-against-stable) }
    patch: '[{"op": "replace", "path": "/spec/metrics/0/initialDelay", "value": "1s"}]'
`); err != nil {
		return err
	}
	if _, err := s.do("apply", "-k", folder); err != nil {
		return err
	}
	for _, replica := range []struct{ name, host string }{{"splitway-one", gateway}, {"splitway-two", neighbour}} {
		w, err := s.startSplitway(replica.name, s.folder("kubeconfig-proxy"), replica.host, "8080", "--port", "http", "--service", namespace+"/splitway")
		if err != nil {
			return err
		}
		s.loads = append(s.loads, load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}))
	}
	return nil
}

// analysis is one that the controller makes of a template; more are arguments beside those that every template needs.
type analysis struct {
	template string
	more     []fields
}

const (
	latest = "Latest"
	stable = "Stable"
)

func argument(name, value string) fields { return fields{"name": name, "value": value} }

func hashOf(name, role string) fields {
	return fields{"name": name, "valueFrom": fields{"podTemplateHashValue": role}}
}

// byAnalysis asks the proxies themselves.
var byAnalysis = analysis{"error-rate", []fields{
	argument("splitway", "http://"+gateway+":9090"), argument("interval", "1s"), argument("window", "5s"),
}}

var bySuccessRate = analysis{"success-rate", []fields{
	argument("prometheus", "http://"+prometheusAt), argument("interval", "1s"), argument("window", "5s"), hashOf("hash", latest),
}}

var againstStable = analysis{"canary-against-stable", []fields{
	argument("prometheus", "http://"+prometheusAt), argument("interval", "1s"), argument("window", "5s"),
	hashOf("canary", latest), hashOf("stable", stable),
}}

func (a analysis) fields(more ...fields) fields {
	return fields{"templates": []fields{{"templateName": "splitway-" + a.template}}, "args": append(append([]fields{}, a.more...), more...)}
}

// beside is one that measures from the first weight on, whatever the steps are; nil: none does.
func beside(a *analysis) []change {
	const path = "/spec/strategy/canary/analysis"
	if a == nil {
		// What is not there cannot be removed.
		return []change{{"add", path, fields{}}, {Op: "remove", Path: path}}
	}
	background := a.fields()
	background["startingStep"] = 1
	return []change{{"add", path, background}}
}

// step is one that measures a few times; when all of that has told nothing, it does not let the canary pass.
func (a analysis) step() fields {
	return fields{"analysis": a.fields(argument("count", "5"), argument("failure-limit", "1"), argument("inconclusive-limit", "3"))}
}

func stepsOf(list ...fields) change { return replace("/spec/strategy/canary/steps", list) }

// aborts releases a version that fails every fifth request, at 5 %, with an analysis beside the steps or as one of them. The
// controller must abort it.
func aborts(a analysis, asStep bool) func(*stage) error {
	return func(s *stage) error {
		begun := time.Now()
		changes := append(beside(&a), walk("5 60s 100"))
		if asStep {
			changes = append(beside(nil), stepsOf(fields{"setWeight": 5}, a.step(), fields{"setWeight": 100}))
		}
		if err := s.release(append(changes, failOneIn("5"))...); err != nil {
			return err
		}
		bad := s.latest
		s.mayLose = func(r load.Record) bool { return r.Version == bad.name && r.Status == http.StatusInternalServerError }
		total, err := s.total()
		if err != nil {
			return err
		}
		return all(
			func() error { return s.asked("aborted by its controller", s.stable, total, s.abortedBy(a)) },
			func() error { return s.served(s.stable, total) },
			func() error {
				since := time.Now()
				if err := s.more(300); err != nil {
					return err
				}
				return errors.Join(s.only(s.stable, since), s.harm(bad, a, begun))
			},
			func() error { return s.rollouts("undo") },
			s.undone,
			func() error { return s.gone(bad) },
		)
	}
}

// analysisRun is the part of the object that these scenarios look at.
type analysisRun struct {
	Metadata struct{ Name string }
	Status   struct {
		Phase, Message string
		MetricResults  []struct {
			Name, Phase                             string
			Successful, Failed, Inconclusive, Error int
			Message                                 string
		}
	}
}

// analyses of one version.
func (w *world) analyses(hash string) (runs []analysisRun, err error) {
	for _, object := range w.latest["AnalysisRun"] {
		if object.GetLabels()[hashLabel] != hash {
			continue
		}
		run, err := convert[analysisRun](object)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// abortedBy wants the analysis, and nothing else, to be the reason.
func (s *stage) abortedBy(a analysis) func(rollout) error {
	return func(r rollout) error {
		runs, err := s.world.analyses(s.latest.hash)
		if err != nil {
			return err
		}
		if !r.Status.Abort || r.Status.Phase != "Degraded" || r.Status.StableRS != s.stable.hash {
			return fmt.Errorf("expected it to be aborted and Degraded, found %s; its analyses: %+v", r.describe(), runs)
		}
		for _, run := range runs {
			if run.Status.Phase == "Failed" && len(run.Status.MetricResults) == 1 && run.Status.MetricResults[0].Name == a.template {
				return nil
			}
		}
		return fmt.Errorf("expected a failed AnalysisRun with the metric %s, found %+v", a.template, runs)
	}
}

// told is a report of a proxy.
type told struct {
	Canary, Outcome string
	Why             struct{ Text string }
	Steps           []struct {
		Off float64 `json:"error_in_requests"`
	}
	Versions []struct {
		Version          string
		Requests, Errors int
	}
}

// reports wants the newest report of a proxy to be about the version, and to hold.
func (w *splitway) reports(v version, holds func(told) error) error {
	return w.until(w.name+": its report of "+v.name, 20*time.Second, func() error {
		text, err := w.ask("/report")
		if err != nil {
			return err
		}
		var all []told
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		if len(all) == 0 || all[0].Canary != v.hash {
			return fmt.Errorf("expected the newest report to be about %s, found %+v", v.hash, all)
		}
		return holds(all[0])
	})
}

// harm wants the proxies' reports to say what the clients have seen, to the request, and prints it.
func (s *stage) harm(bad version, a analysis, begun time.Time) error {
	var met, failed int
	var first, firstFailed, last time.Time
	for i, l := range s.loads {
		var ofThis, failedHere int
		for _, r := range l.Between(begun, time.Now()) {
			if r.Version != bad.name {
				continue
			}
			ofThis++
			if first.IsZero() || r.Sent.Before(first) {
				first = r.Sent
			}
			if r.Sent.After(last) {
				last = r.Sent
			}
			if r.Status == http.StatusOK {
				continue
			}
			failedHere++
			if firstFailed.IsZero() || r.Sent.Before(firstFailed) {
				firstFailed = r.Sent
			}
		}
		err := s.proxies[i].reports(bad, func(report told) error {
			if report.Outcome != "aborted" || !strings.Contains(report.Why.Text, `"`+a.template+`"`) {
				return fmt.Errorf("expected it to be aborted because of %q, found %+v", a.template, report)
			}
			for _, step := range report.Steps {
				if step.Off >= 1 || step.Off <= -1 {
					return fmt.Errorf("expected every step to be less than one request off, found %+v", report)
				}
			}
			for _, v := range report.Versions {
				if v.Version == bad.hash && v.Requests == ofThis && v.Errors == failedHere {
					return nil
				}
			}
			return fmt.Errorf("clients have got %d answers of %s, %d of them errors; the report: %+v", ofThis, bad.hash, failedHere, report)
		})
		if err != nil {
			return err
		}
		met, failed = met+ofThis, failed+failedHere
	}
	if failed == 0 {
		return fmt.Errorf("%s has failed no request: this proves nothing", bad.name)
	}
	s.say("%s, judged by %s: %d requests met it, %d failed, as the reports say, too", bad.name, a.template, met, failed)
	s.say("from the first that failed to the last that met it: %.1f s; from the first that met it: %.1f s",
		last.Sub(firstFailed).Seconds(), last.Sub(first).Seconds())
	return nil
}

// promotes releases a good version, with analyses beside the steps or among them, and wants none of them to object.
func promotes(background *analysis, steps ...fields) func(*stage) error {
	return func(s *stage) error {
		return all(
			func() error { return s.release(append(beside(background), stepsOf(steps...), failOneIn(""))...) },
			s.finish,
			s.unobjected,
			func() error {
				for _, w := range s.proxies {
					if err := w.reports(s.latest, func(report told) error {
						if report.Outcome != "promoted" {
							return fmt.Errorf("expected it to be promoted, found %+v", report)
						}
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			},
		)
	}
}

// unobjected wants every analysis of the latest version to have ended well, with good measurements and no bad one.
func (s *stage) unobjected() error {
	return s.until("its analyses have ended, and none has objected", 20*time.Second, func(w *world) error {
		runs, err := w.analyses(s.latest.hash)
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			return fmt.Errorf("nobody has judged %v", s.latest)
		}
		for _, run := range runs {
			results := run.Status.MetricResults
			if run.Status.Phase != "Successful" || len(results) != 1 || results[0].Failed > 0 || results[0].Successful == 0 {
				return fmt.Errorf("expected %s to be Successful, found %+v", run.Metadata.Name, run.Status)
			}
		}
		return nil
	})
}

// twenty good versions, one after the other.
func twenty(s *stage) error {
	var judges []analysis
	for range 20 {
		judges = append(judges, byAnalysis)
	}
	play := func(s *stage) error {
		for _, a := range judges {
			if err := promotes(&a, steps("5 4s 100")...)(s); err != nil {
				return err
			}
		}
		s.say("%d good versions in a row were promoted", len(judges))
		return nil
	}
	if _, err := exec.LookPath("prometheus"); err != nil {
		return play(s)
	}
	for i := range judges {
		judges[i] = []analysis{byAnalysis, bySuccessRate, againstStable}[i%3]
	}
	return withPrometheus(play)(s)
}

const prometheusAt = gateway + ":9099"

// withPrometheus plays beside a real one, which asks both proxies every second.
func withPrometheus(play func(*stage) error) func(*stage) error {
	return func(s *stage) error {
		program, err := exec.LookPath("prometheus")
		if err != nil {
			s.say("SKIPPED: there is no command prometheus here (Debian: apt-get install prometheus)")
			return nil
		}
		folder := s.folder("prometheus")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		targets := []string{}
		for _, w := range s.proxies {
			targets = append(targets, w.admin)
		}
		config, err := json.Marshal(fields{
			"global":         fields{"scrape_interval": "1s", "scrape_timeout": "1s"},
			"scrape_configs": []fields{{"job_name": "splitway", "static_configs": []fields{{"targets": targets}}}},
		})
		if err != nil {
			return err
		}
		file := filepath.Join(folder, "prometheus.yml")
		if err := os.WriteFile(file, config, 0o644); err != nil {
			return err
		}
		c := &child{
			name: "prometheus", log: filepath.Join(s.folder("logs"), "prometheus.log"), env: s.env, unexpected: s.world.fail,
			argv: []string{
				program, "--config.file", file, "--storage.tsdb.path", filepath.Join(folder, "data"),
				"--web.listen-address", prometheusAt, "--log.level", "warn",
			},
		}
		if err := c.start(); err != nil {
			return err
		}
		defer func() {
			c.kill()
			_ = os.RemoveAll(folder)
		}()
		if err := s.scraped(len(targets)); err != nil {
			return err
		}
		return play(s)
	}
}

// scraped waits until Prometheus has heard from so many proxies.
func (s *stage) scraped(proxies int) error {
	question := "http://" + prometheusAt + "/api/v1/query?" + url.Values{"query": {"count(up == 1)"}}.Encode()
	wanted := fmt.Sprintf(`"%d"]`, proxies)
	last := ""
	for bound := time.Now().Add(60 * time.Second); time.Now().Before(bound) && s.ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		answer, err := client.Get(question)
		if err != nil {
			last = err.Error()
			continue
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err == nil && strings.Contains(string(text), wanted) {
			s.say("Prometheus has scraped %d proxies", proxies)
			return nil
		}
		last = string(text)
	}
	return fmt.Errorf("expected Prometheus to have scraped %d proxies within a minute, it says: %s", proxies, last)
}
