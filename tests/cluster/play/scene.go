package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"

	"splitway.dev/cluster/load"
)

// mode is what the Rollout says about traffic routing, which decides where the weights can be read.
type mode string

const (
	empty     mode = "empty"     // `trafficRouting: {}`
	published mode = "published" // a provider that has nothing behind it: the controller writes weights into the status
	basic     mode = "basic"     // no trafficRouting: stable pods go as canary pods come
)

// scene is what several scenarios are played on, one after the other: one application, one proxy, one load that goes on
// all the time. Each scenario leaves a healthy Rollout behind.
type scene struct {
	name    string
	mode    mode
	object  func(rollout fields) // changes first-case.yaml's Rollout
	extra   string               // one more file of manifests
	proxies func(*stage) error   // onePort if nil
	bare    bool                 // no application, no proxy
}

type fields = map[string]any

// The rate of each load, in requests per second.
const rate = 1000

// A request that takes longer is lost. Much more than anything in here takes, and less than a scenario waits for.
const requestTimeout = 10 * time.Second

// twoPorts is one proxy in front of both ports of the application, with a listener and a split for each. What the second
// port's name says is of no importance here: the bytes are HTTP/1.
func twoPorts(s *stage) error {
	second := gateway + ":8081"
	w, err := s.startSplitway("splitway", s.folder("kubeconfig-proxy"), gateway, "8080=http", "--listen", second+"=grpc")
	if err == nil {
		s.loads = append(s.loads,
			load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}),
			load.Start(load.Settings{Target: second, Rate: rate / 5, Timeout: requestTimeout}))
	}
	return err
}

// onePort is one proxy in front of the application's port for HTTP.
func onePort(s *stage) error {
	w, err := s.startSplitway("splitway", s.folder("kubeconfig-proxy"), gateway, "8080", "--port", "http")
	if err == nil {
		s.loads = append(s.loads, load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}))
	}
	return err
}

// set brings the first version up, and then the proxy and the load.
func (s *stage) set() error {
	file := filepath.Join("manifests", "first-case.yaml")
	if s.scene.object != nil {
		var err error
		if file, err = s.vary(file, s.scene.object); err != nil {
			return err
		}
	}
	files := []string{file}
	if s.scene.extra != "" {
		files = append(files, filepath.Join("manifests", s.scene.extra))
	}
	for _, file := range files {
		if _, err := s.do("apply", "-f", file); err != nil {
			return err
		}
	}
	// The role as it is shipped, and no other right.
	if _, err := s.do("-n", namespace, "apply", "-k", "../../deploy/base/access"); err != nil {
		return err
	}
	err := s.until("v1 is deployed: its pods are ready, and selected", 60*time.Second, func(w *world) error {
		r, err := w.healthy(app)
		if err != nil {
			return err
		}
		s.stable = version{"v1", r.Status.StableRS}
		addresses, err := w.readyAddresses(s.stable.hash, 3)
		return errors.Join(err, w.selects("frontend-stable", s.stable.hash, addresses))
	})
	if err != nil {
		return err
	}
	s.latest, s.count, s.names = s.stable, 1, map[string]string{s.stable.hash: s.stable.name}
	if s.scene.proxies == nil {
		return onePort(s)
	}
	return s.scene.proxies(s)
}

// vary writes a file of manifests anew, with another Rollout.
func (s *stage) vary(file string, change func(fields)) (string, error) {
	text, err := os.ReadFile(filepath.Join(s.source, file))
	if err != nil {
		return "", err
	}
	var items []fields
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var item fields
		err := documents.Decode(&item)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		if item["kind"] == "Rollout" {
			change(item)
		}
		items = append(items, item)
	}
	if text, err = json.MarshalIndent(fields{"apiVersion": "v1", "kind": "List", "items": items}, "", "  "); err != nil {
		return "", err
	}
	varied := s.folder(s.scene.name + ".json")
	return varied, os.WriteFile(varied, text, 0o644)
}

// canary makes the Rollout one for short scenarios: pods that are still in use when they are deleted wait for that to be
// noticed, and whatever a controller waits for is a second.
func canary(routing any) func(fields) {
	return func(rollout fields) {
		strategy := fields{
			"stableService": "frontend-stable", "canaryService": "frontend-canary", "steps": steps("25 pause 100"),
			"abortScaleDownDelaySeconds": 1,
		}
		if routing != nil {
			strategy["trafficRouting"], strategy["scaleDownDelaySeconds"] = routing, 1
		}
		spec := rollout["spec"].(fields)
		spec["strategy"] = fields{"canary": strategy}
		politePods(spec)
	}
}

// dynamicScale is published, with stable pods that go as the canary's come.
func dynamicScale(rollout fields) {
	canary(fields{"nginx": fields{"stableIngress": "frontend"}})(rollout)
	strategy := rollout["spec"].(fields)["strategy"].(fields)["canary"].(fields)
	delete(strategy, "scaleDownDelaySeconds")
	strategy["dynamicStableScale"] = true
}

// pingPong Services change roles; neither is the stable one for good.
func pingPong(rollout fields) {
	canary(fields{"alb": fields{"ingress": "frontend", "rootService": "frontend-root", "servicePort": 5000}})(rollout)
	strategy := rollout["spec"].(fields)["strategy"].(fields)["canary"].(fields)
	delete(strategy, "stableService")
	delete(strategy, "canaryService")
	strategy["pingPong"] = fields{"pingService": "frontend-stable", "pongService": "frontend-canary"}
}

func blueGreen(rollout fields) {
	spec := rollout["spec"].(fields)
	spec["strategy"] = fields{"blueGreen": fields{
		"activeService": "frontend-stable", "previewService": "frontend-canary", "autoPromotionEnabled": false, "scaleDownDelaySeconds": 1,
	}}
	politePods(spec)
}

// politePods have a second port, and go on answering for a second after they have been told to end, as pods behind any proxy should.
func politePods(spec fields) {
	pod := spec["template"].(fields)["spec"].(fields)
	container := pod["containers"].([]any)[0].(fields)
	container["env"] = append(container["env"].([]any), fields{"name": "SECOND_PORT", "value": "5001"})
	container["ports"] = append(container["ports"].([]any), fields{"name": "grpc", "containerPort": 5001})
	container["lifecycle"] = fields{"preStop": fields{"sleep": fields{"seconds": 1}}}
}

// steps of a canary: "25 pause 50 10s 100".
func steps(text string) []fields {
	var list []fields
	for _, word := range strings.Fields(text) {
		weight, err := strconv.Atoi(word)
		switch {
		case err == nil:
			list = append(list, fields{"setWeight": weight})
		case word == "pause":
			list = append(list, fields{"pause": fields{}})
		default:
			list = append(list, fields{"pause": fields{"duration": word}})
		}
	}
	return list
}
