package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// `splitway check` against the real API server and controller: every cause is brought about, and its line fails.

// report is what check prints as JSON.
type report struct {
	OK     bool `json:"ok"`
	Checks []struct {
		ID      string `json:"id"`
		Outcome string `json:"outcome"`
		Message string `json:"message"`
	} `json:"checks"`
}

func (r *report) with(outcome string) (ids []string) {
	for _, c := range r.Checks {
		if c.Outcome == outcome {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// checker asks as an account of its own, so that the proxy does not lose what is taken from it.
type checker struct {
	*stage
	kubeconfig string
}

// check runs the command once.
func (c *checker) check(rollout, kubeconfig string, arguments ...string) (r report, err error) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, 40*time.Second, errors.New("not finished within 40 s"))
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(c.binaries, "splitway"), append([]string{
		"check", "--rollout", rollout, "--kubeconfig", kubeconfig, "--output", "json",
	}, arguments...)...)
	var output, complaints bytes.Buffer
	command.Env, command.Stdout, command.Stderr = c.env, &output, &complaints
	ended := command.Run()
	if err := json.Unmarshal(output.Bytes(), &r); err != nil {
		return r, fmt.Errorf("check prints no JSON: %w: %v\n%s%s", err, ended, output.String(), complaints.String())
	}
	if code := command.ProcessState.ExitCode(); (code == 0) != r.OK || code > 1 {
		return r, fmt.Errorf("exit code %d, and ok is %v", code, r.OK)
	}
	return r, nil
}

// until asks again until the report holds: who enforces a Role hears of its change a moment later.
func (c *checker) until(what string, ask func() (report, error), holds func(report) error) error {
	bound := time.After(20 * time.Second)
	for {
		r, err := ask()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		wrong := holds(r)
		if wrong == nil {
			c.say("%s", what)
			return nil
		}
		select {
		case <-bound:
			return fmt.Errorf("%s: %w; the report: %+v", what, wrong, r)
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// first wants the cause to be the first line that fails.
func first(id string) func(report) error {
	return func(r report) error {
		if failed := r.with("FAIL"); len(failed) == 0 || failed[0] != id {
			return fmt.Errorf("expected %s to fail first, found %v", id, failed)
		}
		return nil
	}
}

// among wants the line to fail; the controller may have found the same fault, and said so in a line above.
func among(id string) func(report) error {
	return func(r report) error {
		if failed := r.with("FAIL"); !slices.Contains(failed, id) {
			return fmt.Errorf("expected %s to fail, found %v", id, failed)
		}
		return nil
	}
}

func well(warned ...string) func(report) error {
	return func(r report) error {
		if found := r.with("warn"); !r.OK || !slices.Equal(found, warned) {
			return fmt.Errorf("expected nothing but the warnings %v, found %v and the failures %v", warned, found, r.with("FAIL"))
		}
		return nil
	}
}

func checkAll(s *stage) error {
	c := &checker{stage: s, kubeconfig: s.folder("kubeconfig-checker")}
	proxy := s.proxies[0]
	whole := func() (report, error) {
		return c.check(namespace+"/"+app, c.kubeconfig, "--admin", proxy.admin, "--port", "http")
	}
	return all(
		c.account,
		func() error { return c.until("nobody scrapes", whole, first("metrics.scraped")) },
		func() error { return scrape(proxy.admin) },
		func() error { return c.until("all is well", whole, well()) },
		func() error { return s.release(walk("25 pause 50 pause 100")) },
		func() error { return s.climb(500, 25) },
		func() error { return c.until("all is well at 25 %", whole, well()) },
		c.ways,
		c.permissions,
		c.brokenRollout,
		func() error { return c.lateProxy(whole) },
		func() error { return c.until("all is well again", whole, well()) },
		func() error { return s.promote("--full") },
		s.finish,
	)
}

func scrape(admin string) error {
	request, err := http.NewRequest(http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return err
	}
	request.Header.Set("user-agent", "Prometheus/3.1.0")
	answer, err := askAdmin.Do(request)
	if err == nil {
		err = answer.Body.Close()
	}
	return err
}

// account makes the service account checker, with the proxy's Role.
func (c *checker) account() error {
	if _, err := c.do("-n", namespace, "create", "serviceaccount", "checker"); err != nil {
		return err
	}
	if err := c.allow("", ""); err != nil {
		return err
	}
	if _, err := c.do("-n", namespace, "create", "rolebinding", "checker", "--role", "checker", "--serviceaccount", namespace+":checker"); err != nil {
		return err
	}
	token, err := c.kubectl("-n", namespace, "create", "token", "checker")
	if err != nil {
		return err
	}
	return c.writeKubeconfig(c.kubeconfig, "https://"+gateway+":6443", strings.TrimSpace(token))
}

// allow writes the account's Role: everything but a verb of a resource. An empty verb is all of them.
func (c *checker) allow(resource string, verb string) error {
	type rule = map[string][]string
	var rules []rule
	for _, known := range []struct{ group, resource string }{
		{"argoproj.io", "rollouts"}, {"", "services"}, {"discovery.k8s.io", "endpointslices"}, {"", "pods"},
	} {
		verbs := slices.DeleteFunc([]string{"get", "list", "watch"}, func(v string) bool {
			return known.resource == resource && (verb == "" || verb == v)
		})
		if len(verbs) > 0 {
			rules = append(rules, rule{"apiGroups": {known.group}, "resources": {known.resource}, "verbs": verbs})
		}
	}
	text, err := json.Marshal(fields{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
		"metadata": fields{"name": "checker", "namespace": namespace}, "rules": rules,
	})
	if err != nil {
		return err
	}
	file := c.folder("checker-role.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	_, err = c.do("apply", "-f", file)
	return err
}

// ways breaks what leads to the API server and to the proxy, and what is asked for.
func (c *checker) ways() error {
	nowhere, stranger := c.folder("kubeconfig-nowhere"), c.folder("kubeconfig-stranger")
	if err := errors.Join(
		c.writeKubeconfig(nowhere, "https://"+gateway+":7999", c.proxy),
		c.writeKubeconfig(stranger, "https://"+gateway+":6443", randomToken()),
	); err != nil {
		return err
	}
	admin := c.proxies[0].admin
	for _, one := range []struct {
		what, id, rollout, kubeconfig string
		arguments                     []string
	}{
		{"nothing listens where the API server should be", "api.reachable", app, nowhere, nil},
		{"a token that the API server does not know", "api.credentials", app, stranger, nil},
		{"a Rollout that does not exist", "rollout.exists", "nobody", c.kubeconfig, nil},
		{"a port that no pod has", "port.found", app, c.kubeconfig, []string{"--port", "grpcc"}},
		{"an admin listener that does not exist", "proxy.reachable", app, c.kubeconfig, []string{"--port", "http", "--admin", gateway + ":7999"}},
		{"a proxy that follows another Rollout", "proxy.follows", "nobody", c.kubeconfig, []string{"--admin", admin}},
	} {
		ask := func() (report, error) { return c.check(namespace+"/"+one.rollout, one.kubeconfig, one.arguments...) }
		holds := first(one.id)
		if one.id == "proxy.follows" {
			holds = among(one.id)
		}
		if err := c.until(one.id+": "+one.what, ask, holds); err != nil {
			return err
		}
	}
	return nil
}

// permissions takes each verb away, one by one.
func (c *checker) permissions() error {
	ask := func() (report, error) { return c.check(namespace+"/"+app, c.kubeconfig, "--port", "http") }
	for _, resource := range []string{"rollouts", "services", "endpointslices", "pods"} {
		for _, verb := range []string{"get", "list", "watch"} {
			id := "rbac." + resource + "." + verb
			holds := first(id)
			// What can be done without.
			if verb == "get" || resource == "pods" || resource == "endpointslices" {
				holds = well(id)
			}
			if err := c.allow(resource, verb); err != nil {
				return err
			}
			if err := c.until(id+": forbidden", ask, holds); err != nil {
				return err
			}
		}
	}
	if err := c.allow("", ""); err != nil {
		return err
	}
	return c.until("all is allowed again", ask, well())
}

// brokenRollout deploys a second Rollout, with one fault after the other.
func (c *checker) brokenRollout() error {
	const name = "broken"
	ask := func() (report, error) { return c.check(namespace+"/"+name, c.kubeconfig) }
	canary := func(of fields) fields { return fields{"canary": of} }
	named := func(more fields) fields {
		strategy := fields{"stableService": "broken-stable", "canaryService": "broken-canary", "trafficRouting": fields{}}
		for field, value := range more {
			strategy[field] = value
		}
		return canary(strategy)
	}
	provider := fields{"nginx": fields{"stableIngress": "frontend"}}
	service := func(name, label string) fields {
		return fields{
			"apiVersion": "v1", "kind": "Service", "metadata": fields{"name": name, "namespace": namespace},
			"spec": fields{"selector": fields{"app": label}, "ports": []fields{{"port": 5000}}},
		}
	}
	for _, one := range []struct {
		id, annotation string
		strategy       fields
		services       []fields
	}{
		{"services.named", "", canary(fields{"trafficRouting": provider}), nil},
		{"rollout.spec", "", canary(fields{"trafficRouting": provider}), nil},
		{"services.exist", "", named(nil), nil},
		{"services.select", "", named(nil), []fields{service("broken-stable", name), service("broken-canary", "somebody-else")}},
		{"rollout.strategy", "", named(fields{"trafficRouting": fields{"nginxx": fields{"stableIngress": "a"}}}),
			[]fields{service("broken-stable", name), service("broken-canary", name)}},
		{"annotation.routes", "rutes: []", named(nil), nil},
		// The image does not exist.
		{"pods.stable", "", named(nil), nil},
	} {
		rollout := fields{
			"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
			"metadata": fields{"name": name, "namespace": namespace, "annotations": fields{}},
			"spec": fields{
				"replicas": 1, "selector": fields{"matchLabels": fields{"app": name}}, "strategy": one.strategy,
				"template": fields{
					"metadata": fields{"labels": fields{"app": name}},
					"spec":     fields{"containers": []fields{{"name": "app", "image": "nobody-has-built-it", "ports": []fields{{"containerPort": 5000}}}}},
				},
			},
		}
		if one.annotation != "" {
			rollout["metadata"].(fields)["annotations"] = fields{"splitway.dev/routes": one.annotation}
		}
		text, err := json.Marshal(fields{"apiVersion": "v1", "kind": "List", "items": append(one.services, rollout)})
		if err != nil {
			return err
		}
		file := c.folder("broken.json")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
		// The API server drops what it does not know, if kubectl lets it come so far.
		if _, err := c.do("apply", "--validate=false", "-f", file); err != nil {
			return err
		}
		if err := c.until(one.id+": a Rollout with that fault", ask, among(one.id)); err != nil {
			return err
		}
	}
	_, err := c.do("-n", namespace, "delete", "rollout", name, "--wait", "--timeout", "30s")
	return err
}

// lateProxy keeps news from the proxy, and then its whole connection.
func (c *checker) lateProxy(ask func() (report, error)) error {
	g := c.gates[0]
	return all(
		func() error { c.world.did("the proxy's watches are held"); g.hold(); return c.promote() },
		func() error { return c.asked("step 3, unheard by the proxy", c.latest, 50, c.paused(3)) },
		func() error {
			return c.until("proxy.weight: the proxy has not heard of 50 %", ask, first("proxy.weight"))
		},
		func() error {
			_, err := c.do("-n", namespace, "patch", "rollout", app, "--type", "merge", "--patch", `{"spec":{"progressDeadlineSeconds":599}}`)
			return err
		},
		func() error { return c.until("proxy.generation: nor of another spec", ask, first("proxy.generation")) },
		func() error { g.release(); return c.served(c.latest, 50) },
		func() error { c.world.did("the proxy's way to the API server is cut"); g.cut(); return nil },
		func() error { return c.until("proxy.heard: it has lost contact", ask, first("proxy.heard")) },
		g.mend,
	)
}
