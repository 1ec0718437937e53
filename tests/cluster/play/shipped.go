package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"splitway.dev/cluster/load"
)

// shipped: `kubectl apply -k` of the case, in a namespace that enforces the strictest standard; a whole rollout under load;
// then nothing has drifted, and the proxies have only looked.
func shipped(s *stage) error {
	if err := s.apply("restricted.yaml"); err != nil {
		return err
	}
	if _, err := s.do("apply", "-k", s.deploy("overlays", app)); err != nil {
		return err
	}
	return all(
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error { return s.loadService("frontend-service", rate) },
		s.rolloutThroughPods,
		func() error { return s.undrifted("shipped", []string{"overlays/" + app}, nil) },
		func() error { return s.onlyLookedAt("rollouts", "services", "endpointslices", "pods") },
		s.mayNot,
	)
}

// withoutPods: where the Role does not grant pods, slices are followed, which is said.
func withoutPods(s *stage) error {
	if err := s.apply("restricted.yaml"); err != nil {
		return err
	}
	folder, err := s.kustomization("without-pods-run", []string{"overlays/" + app}, []string{"components/without-pods"})
	if err != nil {
		return err
	}
	if _, err := s.do("apply", "-k", folder); err != nil {
		return err
	}
	return all(
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error {
			for _, w := range s.inPods {
				text, err := w.ask("/config")
				if err != nil {
					return err
				}
				var p struct{ Rollout struct{ Notes []string } }
				if err := json.Unmarshal([]byte(text), &p); err != nil {
					return err
				}
				if !slices.ContainsFunc(p.Rollout.Notes, func(note string) bool { return strings.Contains(note, "EndpointSlices") }) {
					return fmt.Errorf("%s: expected a note about the slices that are followed instead, found %v", w.name, p.Rollout.Notes)
				}
				s.say("%s says: %s", w.name, strings.Join(p.Rollout.Notes, "; "))
			}
			return nil
		},
		func() error { return s.loadService("frontend-service", rate/2) },
		s.rolloutThroughPods,
		func() error {
			return s.undrifted("without-pods", []string{"overlays/" + app}, []string{"components/without-pods"})
		},
	)
}

// gatedSteps: the five steps as shipped. Testers reach the canary from the first step on, each weight is verified at every
// proxy before its pause begins, and the last gate waits for the old version to be idle.
func gatedSteps(s *stage) error {
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { _, err := s.do("apply", "-k", s.deploy("base")); return err },
		func() error {
			// There is no cluster DNS here: the gates ask the proxies' Service by its address.
			ip, err := s.kubectl("-n", namespace, "get", "service", "splitway", "-o", "jsonpath={.spec.clusterIP}")
			if err != nil {
				return err
			}
			folder, err := s.kustomization("five-steps-run", []string{"overlays/five-steps"}, nil)
			if err != nil {
				return err
			}
			err = patched(folder, fmt.Sprintf(`  - target: { kind: AnalysisTemplate, name: splitway-verify }
    patch: '[{"op": "test", "path": "/spec/args/3/name", "value": "splitway"}, {"op": "replace", "path": "/spec/args/3/value", "value": %q}]'
  - target: { kind: AnalysisTemplate, name: splitway-drained }
    patch: '[{"op": "test", "path": "/spec/args/1/name", "value": "splitway"}, {"op": "replace", "path": "/spec/args/1/value", "value": %q}]'
`, "http://"+ip+":9090", "http://"+ip+":9090"))
			if err != nil {
				return err
			}
			_, err = s.do("apply", "-k", folder)
			return err
		},
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error { return s.loadService("frontend-service", rate/2) },
		func() error { return s.release() },
		func() error {
			for i, weight := range []int{5, 10, 25, 50} {
				// The weight, its gate, its pause.
				step := int32(3*i + 2)
				err := s.until(fmt.Sprintf("%d %% is verified, and the pause has begun", weight), 60*time.Second, func(w *world) error {
					r, err := w.rollout(app)
					if err != nil {
						return err
					}
					return s.paused(step)(r)
				})
				if err != nil {
					return err
				}
				err = all(
					func() error { return s.podsServe(weight, 100) },
					func() error { return s.sum(weight, 100, 1000) },
					func() error { return s.choose("x-tester", "true", s.latest.name) },
					func() error { return s.promote() },
				)
				if err != nil {
					return err
				}
			}
			return nil
		},
		s.promotedPods,
		func() error { return s.sum(100, 100, 300) },
		func() error {
			return s.world.until(s.ctx, "the gates", time.Second, func(w *world) error {
				gates := 0
				for name, run := range w.latest["AnalysisRun"] {
					phase, _, _ := unstructured.NestedString(run.Object, "status", "phase")
					if phase != "Successful" {
						return fmt.Errorf("%s is %s", name, phase)
					}
					gates++
				}
				if gates != 5 {
					return fmt.Errorf("expected 5 gates, found %d", gates)
				}
				return nil
			})
		},
	)
}

// choose wants the version for every request with the header.
func (s *stage) choose(header, value, wanted string) error {
	ip, err := s.kubectl("-n", namespace, "get", "service", "frontend-service", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	for range 30 {
		request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+ip+":5000/", nil)
		if err != nil {
			return err
		}
		request.Header.Set(header, value)
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if found := answer.Header.Get("app-version"); found != wanted {
			return fmt.Errorf("%s: %s: expected %s, found %q", header, value, wanted, found)
		}
	}
	s.say("%s: %s gets %s", header, value, wanted)
	return nil
}

// patched appends patches to a kustomization.
func patched(folder, patches string) error {
	file, err := os.OpenFile(filepath.Join(folder, "kustomization.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("patches:\n" + patches)
	return errors.Join(err, file.Close())
}

// inertProvider: weights finer than one per cent, which the controller publishes for a provider that nobody is.
func inertProvider(s *stage) error {
	at := func(step int32, weight int) error {
		err := s.until(fmt.Sprintf("%d of 1000: the pause has begun, and the status says so", weight), 60*time.Second, func(w *world) error {
			r, err := w.rollout(app)
			if err != nil {
				return err
			}
			if err := s.paused(step)(r); err != nil {
				return err
			}
			if weights := r.Status.Canary.Weights; weights == nil || int(weights.Canary.Weight) != weight {
				return fmt.Errorf("expected the published weight %d, found %+v", weight, weights)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return errors.Join(s.podsServe(weight, 1000), s.sum(weight, 1000, 1200))
	}
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { _, err := s.do("apply", "-k", s.deploy("overlays", "inert-provider")); return err },
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error { return s.loadService("frontend-service", rate/2) },
		func() error { return s.release() },
		func() error { return at(1, 55) },
		func() error { return s.promote() },
		func() error { return at(3, 505) },
		s.promotePods,
		func() error { return s.sum(100, 100, 300) },
		func() error { return s.undrifted("inert-provider", []string{"overlays/inert-provider"}, nil) },
	)
}

// replaced: proxies come and go under load, in the middle of an update. Nothing is lost, and the share stays what it is.
func replaced(s *stage) error {
	deployment := func(command ...string) func() error {
		return func() error {
			_, err := s.do(append([]string{"-n", namespace}, append(command, "deployment/splitway")...)...)
			return err
		}
	}
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { _, err := s.do("apply", "-k", s.deploy("overlays", app)); return err },
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error { return s.loadService("frontend-service", rate/2) },
		func() error { return s.release() },
		func() error { return s.paused33("the pause has begun") },
		deployment("rollout", "restart"),
		func() error { return s.proxyPods(2) },
		func() error { return errors.Join(s.podsServe(33, 100), s.sum(33, 100, 1200)) },
		deployment("scale", "--replicas=3"),
		func() error { return s.proxyPods(3) },
		func() error { return errors.Join(s.podsServe(33, 100), s.sum(33, 100, 1200)) },
		deployment("scale", "--replicas=1"),
		func() error { return s.proxyPods(1) },
		func() error { return errors.Join(s.podsServe(33, 100), s.sum(33, 100, 1200)) },
		s.promotePods,
		func() error { return s.sum(100, 100, 300) },
	)
}

// settings: a file beside the Rollout, by which testers choose for themselves whatever the weight.
func settings(s *stage) error {
	folder, err := s.kustomization("settings-run", []string{"overlays/" + app}, []string{"components/settings"})
	if err != nil {
		return err
	}
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { _, err := s.do("apply", "-k", folder); return err },
		func() error { return s.up("v1") },
		func() error { return s.proxyPods(2) },
		func() error { return s.release() },
		func() error { return s.paused33("the pause has begun") },
		func() error { return s.choose("x-canary", "always", "v2") },
		func() error { return s.choose("x-canary", "never", "v1") },
	)
}

// sidecar: the proxy begins before its client and ends after it, and nobody else can reach it.
func sidecar(s *stage) error {
	if err := s.apply("restricted.yaml"); err != nil {
		return err
	}
	for _, folder := range []string{s.deploy("overlays", app), s.deploy("overlays", "sidecar")} {
		if _, err := s.do("apply", "-k", folder); err != nil {
			return err
		}
	}
	var pods []corev1.Pod
	return all(
		func() error { return s.up("v1") },
		func() error {
			return s.until("two clients have got their answers through the proxy beside them", 60*time.Second, func(w *world) (err error) {
				if pods, err = w.labelled("app", "frontend-client"); err != nil {
					return err
				}
				ready := 0
				for _, pod := range pods {
					if isReady(&pod) && len(pod.Status.InitContainerStatuses) == 1 && pod.Status.InitContainerStatuses[0].Ready {
						ready++
					}
				}
				if ready != 2 {
					return fmt.Errorf("expected 2 ready pods with a sidecar, found %d of %d", ready, len(pods))
				}
				return nil
			})
		},
		func() error {
			// Its listener is on the pod's own loopback; its admin listener is for probes and Prometheus.
			for _, pod := range pods {
				w := &splitway{stage: s, admin: pod.Status.PodIP + ":9090"}
				w.name = pod.Name
				if _, err := w.ask("/readyz"); err != nil {
					return err
				}
				if _, err := client.Get("http://" + pod.Status.PodIP + ":8080/"); err == nil {
					return fmt.Errorf("%s: others can use the proxy", pod.Name)
				}
			}
			return nil
		},
		func() error {
			_, err := s.do("-n", namespace, "delete", "deployment", "frontend-client", "--cascade=foreground", "--wait", "--timeout", "60s")
			return err
		},
		func() error {
			return s.world.until(s.ctx, "how they ended", 10*time.Second, func(w *world) error {
				ended := 0
				for _, e := range w.events {
					if e.Kind != "Pod" || e.Type != "DELETED" || e.Object.GetLabels()["app"] != "frontend-client" {
						continue
					}
					pod, err := convert[corev1.Pod](e.Object)
					if err != nil {
						return err
					}
					for _, c := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
						if over := c.State.Terminated; over == nil || over.ExitCode != 0 || c.RestartCount != 0 {
							return fmt.Errorf("pod %s, container %s: expected one run that ended with 0, found %+v", pod.Name, c.Name, c)
						}
					}
					ended++
				}
				if ended != 2 {
					return fmt.Errorf("expected 2 pods to end, %d did", ended)
				}
				return nil
			})
		},
	)
}

// up waits until the application runs.
func (s *stage) up(name string) error {
	return s.until(name+" is deployed", 60*time.Second, func(w *world) error {
		r, err := w.healthy(app)
		if err != nil {
			return err
		}
		_, err = w.readyAddresses(r.Status.StableRS, 3)
		s.stable = version{name, r.Status.StableRS}
		s.latest, s.count, s.names = s.stable, 1, map[string]string{s.stable.hash: name}
		return err
	})
}

// proxyPods waits until so many proxies are ready.
func (s *stage) proxyPods(count int) error {
	if _, err := s.kubectl("-n", namespace, "rollout", "status", "deployment/splitway", "--timeout", "60s"); err != nil {
		return err
	}
	return s.until(fmt.Sprintf("%d proxies are ready, and there are no others", count), 60*time.Second, func(w *world) error {
		pods, err := w.labelled("app.kubernetes.io/name", "splitway")
		if err != nil {
			return err
		}
		s.inPods = nil
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil && isReady(&pod) {
				one := &splitway{stage: s, admin: pod.Status.PodIP + ":9090"}
				one.name = pod.Name
				s.inPods = append(s.inPods, one)
			}
		}
		if len(s.inPods) != count || len(pods) != count {
			return fmt.Errorf("%d of %d are ready", len(s.inPods), len(pods))
		}
		return nil
	})
}

// loadService begins a load like that of clients which know nothing but the Service: through its cluster address, which a
// double of kube-proxy copies to a proxy, byte by byte.
func (s *stage) loadService(name string, rate int) error {
	ip, err := s.kubectl("-n", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	if err := s.clusterAnswers(name, "hello from the "+s.stable.name+" version\n"); err != nil {
		return err
	}
	s.loads = append(s.loads, load.Start(load.Settings{Target: ip + ":5000", Rate: rate, Timeout: requestTimeout}))
	return s.more(200)
}

// rolloutThroughPods: 33 %, a pause that a user ends, 100 %; the sum of all proxies is exact at each.
func (s *stage) rolloutThroughPods() error {
	return all(
		func() error { return s.release() },
		func() error { return s.paused33("the pause has begun") },
		func() error { return s.sum(33, 100, 1200) },
		s.promotePods,
		func() error { return s.sum(100, 100, 300) },
	)
}

func (s *stage) paused33(what string) error {
	err := s.until(what, 60*time.Second, func(w *world) error {
		r, err := w.rollout(app)
		if err != nil {
			return err
		}
		return s.paused(1)(r)
	})
	if err != nil {
		return err
	}
	return s.podsServe(33, 100)
}

func (s *stage) promotePods() error {
	return all(func() error { return s.promote() }, s.promotedPods)
}

// promotedPods waits for the end of an update, in the API and in every proxy.
func (s *stage) promotedPods() error {
	err := s.until(s.latest.name+" is promoted", 60*time.Second, func(w *world) error {
		r, err := w.healthy(app)
		if err == nil && r.Status.StableRS != s.latest.hash {
			err = fmt.Errorf("expected %v to be stable, found %s", s.latest, r.describe())
		}
		return err
	})
	if err != nil {
		return err
	}
	s.stable = s.latest
	return s.podsServe(100, 100)
}

func (s *stage) podsServe(weight, total int) error {
	for _, w := range s.inPods {
		if err := w.serves(s.latest.hash, weight, total); err != nil {
			return err
		}
	}
	return nil
}

// sum: of so many requests from now on the latest version gets its weight, whichever proxy they go to. Each proxy is less than
// one request away from the share at each end of the counting, and one more for each that was under way then.
func (s *stage) sum(weight, total, requests int) error {
	from := time.Now()
	if err := s.more(requests); err != nil {
		return err
	}
	for _, l := range s.loads {
		w := l.Window(from, time.Now())
		off, bound := w.Off(s.latest.name, weight, total), float64(2*len(s.inPods)+w.Unsure)
		if w.Lost > 0 || math.Abs(off) > bound {
			return fmt.Errorf("%d of %d: of %d requests %s got %d, off by %+.2f (bound %.0f), %d lost; all: %v",
				weight, total, w.Requests, s.latest.name, w.Versions[s.latest.name], off, bound, w.Lost, w.Versions)
		}
		s.say("%d of %d: %s got %d of %d requests, off by %+.2f (bound %.0f)", weight, total, s.latest.name, w.Versions[s.latest.name], w.Requests, off, bound)
		s.score.windows++
		if w.Unsure == 0 {
			s.score.worst = max(s.score.worst, math.Abs(off))
		}
	}
	return nil
}

// undrifted: after a whole rollout the cluster is what its manifests say, once they say the version that it was about.
func (s *stage) undrifted(name string, resources, components []string) error {
	before, err := s.kustomization(name+"-before", resources, components)
	if err != nil {
		return err
	}
	if different, err := s.kubectl("diff", "-k", before); err == nil || !strings.Contains(different, "value: "+s.stable.name) {
		return fmt.Errorf("expected kubectl diff to show that the version is another one, found %q (%v)", different, err)
	}
	after, err := s.kustomization(name+"-after", resources, components)
	if err != nil {
		return err
	}
	err = patched(after, fmt.Sprintf(`  - target: { kind: Rollout }
    patch: '[{"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": %q}]'
`, s.stable.name))
	if err != nil {
		return err
	}
	if different, err := s.kubectl("diff", "-k", after); err != nil {
		return fmt.Errorf("expected kubectl diff to find nothing, found\n%s\n%w", different, err)
	}
	s.say("kubectl diff finds nothing, after a whole rollout")
	return nil
}

// onlyLookedAt wants the audit log to show list and watch of these by the account of the shipped manifests, and nothing
// else but get.
func (s *stage) onlyLookedAt(resources ...string) error {
	acts, err := s.acts(account)
	if err != nil {
		return err
	}
	for _, resource := range resources {
		for _, verb := range []string{"list", "watch"} {
			if acts[verb+" "+resource] == 0 {
				return fmt.Errorf("expected the audit log to show %s %s, found %v", verb, resource, acts)
			}
		}
	}
	s.say("the audit log of the proxies: %v", acts)
	return s.onlyLooked()
}

// mayNot asks the API server for what the account has not been given.
func (s *stage) mayNot() error {
	for _, act := range []string{"create pods", "patch rollouts", "update services", "delete pods", "get secrets", "get configmaps", "create tokenreviews"} {
		verb, resource, _ := strings.Cut(act, " ")
		answer, err := s.kubectl("-n", namespace, "auth", "can-i", verb, resource, "--as", account)
		if strings.TrimSpace(answer) != "no" {
			return fmt.Errorf("may the proxy %s? expected no, found %q (%v)", act, answer, err)
		}
	}
	if answer, err := s.kubectl("-n", "default", "auth", "can-i", "list", "pods", "--as", account); strings.TrimSpace(answer) != "no" {
		return fmt.Errorf("may the proxy list pods elsewhere? expected no, found %q (%v)", answer, err)
	}
	return nil
}
