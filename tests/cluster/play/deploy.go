package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// What the repository ships for Kubernetes: rendered by the tools of its users, compared, refused where it should be, and
// taken by the real API server. shipped.go then runs it.

// deploy is the folder of that name.
func (o *options) deploy(parts ...string) string {
	return filepath.Join(append([]string{o.source, "..", "..", "deploy"}, parts...)...)
}

// object is one of a stream of YAML documents.
type object map[string]any

func (o object) at(path ...string) any {
	var value any = map[string]any(o)
	for _, name := range path {
		inner, _ := value.(map[string]any)
		value = inner[name]
	}
	return value
}

func (o object) key() string {
	return fmt.Sprintf("%v %v/%v", o["kind"], o.at("metadata", "namespace"), o.at("metadata", "name"))
}

func objects(text string) (map[string]object, error) {
	all := map[string]object{}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 1<<16)
	for {
		var one object
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case len(one) == 0:
			continue
		}
		if _, twice := all[one.key()]; twice {
			return nil, fmt.Errorf("%s is there twice", one.key())
		}
		all[one.key()] = one
	}
}

// helm runs it as a user would; CHART stands for the chart of the repository.
func (s *stage) helm(arguments ...string) (string, error) {
	for i, argument := range arguments {
		if argument == "CHART" {
			arguments[i] = s.deploy("chart")
		}
	}
	command := exec.CommandContext(s.ctx, filepath.Join(s.binaries, "helm"), arguments...)
	var output, complaints bytes.Buffer
	command.Env, command.Stdout, command.Stderr = s.env, &output, &complaints
	if err := command.Run(); err != nil {
		return output.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(arguments, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return output.String(), nil
}

// kustomization writes one that joins parts of deploy/, and gives its folder.
func (s *stage) kustomization(name string, resources, components []string) (string, error) {
	folder := s.folder("kustomizations/" + name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: " + namespace + "\n"
	for _, list := range []struct {
		field string
		parts []string
	}{{"resources", resources}, {"components", components}} {
		if len(list.parts) == 0 {
			continue
		}
		text += list.field + ":\n"
		for _, part := range list.parts {
			relative, err := filepath.Rel(folder, s.deploy(part))
			if err != nil {
				return "", err
			}
			text += "  - " + relative + "\n"
		}
	}
	return folder, os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o644)
}

// chart: the chart says what kustomize says, and refuses what it does not know.
func chart(s *stage) error {
	if _, err := s.helm("lint", "--strict", "CHART", "--set", "rollout=x"); err != nil {
		return err
	}
	for _, pair := range []struct {
		name       string
		resources  []string
		components []string
		values     []string
		only       string // in kustomize's output only: the application's own
	}{
		{"base", []string{"base"}, nil, []string{"rollout=tracing-demo-frontend"}, ""},
		{"case", []string{"overlays/tracing-demo-frontend"}, nil, nil, "Rollout services/tracing-demo-frontend"},
		{"autoscaling", []string{"base"}, []string{"components/autoscaling"}, []string{"rollout=tracing-demo-frontend,autoscaling.enabled=true"}, ""},
		{"monitor", []string{"base"}, []string{"components/service-monitor"}, []string{"rollout=tracing-demo-frontend,serviceMonitor.enabled=true"}, ""},
		{"analysis", []string{"base"}, []string{"components/analysis"}, []string{"rollout=tracing-demo-frontend,analysis.enabled=true"}, ""},
		{"rules", []string{"base"}, []string{"components/rules"}, []string{"rollout=tracing-demo-frontend,prometheusRule.enabled=true"}, ""},
		{"dashboard", []string{"base"}, []string{"components/dashboard"}, []string{"rollout=tracing-demo-frontend,dashboard.enabled=true"}, ""},
		{"without-pods", []string{"base"}, []string{"components/without-pods"}, []string{"rollout=tracing-demo-frontend,rbac.pods=false"}, ""},
		{
			"settings", []string{"base"}, []string{"components/settings"},
			[]string{"rollout=tracing-demo-frontend,settings.override.header=x-canary,settings.override.cookie=canary"}, "",
		},
		{
			"everything",
			[]string{"base"}, []string{"components/analysis", "components/autoscaling", "components/service-monitor", "components/without-pods"},
			[]string{"rollout=tracing-demo-frontend,analysis.enabled=true,autoscaling.enabled=true,serviceMonitor.enabled=true,rbac.pods=false"}, "",
		},
	} {
		folder, err := s.kustomization(pair.name, pair.resources, pair.components)
		if err != nil {
			return err
		}
		text, err := s.kubectl("kustomize", folder)
		if err != nil {
			return err
		}
		wanted, err := objects(text)
		if err != nil {
			return err
		}
		if pair.only != "" {
			if wanted[pair.only] == nil {
				return fmt.Errorf("%s: kustomize has no %s", pair.name, pair.only)
			}
			delete(wanted, pair.only)
		}
		arguments := []string{"template", "splitway", "CHART", "--namespace", namespace}
		for _, values := range pair.values {
			arguments = append(arguments, "--set", values)
		}
		if pair.values == nil {
			arguments = append(arguments, "--values", s.deploy("chart", "examples", app+".yaml"))
		}
		if text, err = s.helm(arguments...); err != nil {
			return err
		}
		found, err := objects(text)
		if err != nil {
			return err
		}
		if err := same(wanted, found); err != nil {
			return fmt.Errorf("%s: the chart and kustomize differ: %w", pair.name, err)
		}
		s.say("%s: %d objects, the same from Helm and from kustomize", pair.name, len(wanted))
	}
	return s.refusals()
}

// Labels that only Helm writes.
var helmsOwn = []string{"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"}

func same(wanted, found map[string]object) error {
	var all []error
	for _, side := range []map[string]object{wanted, found} {
		for key, one := range side {
			if one["kind"] != "ConfigMap" {
				continue
			}
			// A file is the same if it means the same.
			data, _ := one["data"].(map[string]any)
			for name, text := range data {
				var meant any
				if err := yaml.Unmarshal([]byte(text.(string)), &meant); err != nil {
					return fmt.Errorf("%s, %s: %w", key, name, err)
				}
				data[name] = meant
			}
		}
	}
	for key, one := range found {
		if annotations, _ := one.at("metadata", "annotations").(map[string]any); annotations["helm.sh/hook"] != nil {
			continue
		}
		if labels, _ := one.at("metadata", "labels").(map[string]any); labels != nil {
			for _, label := range helmsOwn {
				delete(labels, label)
			}
		}
		if wanted[key] == nil {
			all = append(all, fmt.Errorf("only the chart has %s", key))
		}
	}
	for key, one := range wanted {
		if found[key] == nil {
			all = append(all, fmt.Errorf("only kustomize has %s", key))
			continue
		}
		for _, difference := range differences(key, map[string]any(one), map[string]any(found[key])) {
			all = append(all, errors.New(difference))
		}
	}
	return errors.Join(all...)
}

func differences(path string, a, b any) (all []string) {
	switch a := a.(type) {
	case object:
		return differences(path, map[string]any(a), b)
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			for name, value := range a {
				all = append(all, differences(path+"."+name, value, b[name])...)
			}
			for name, value := range b {
				if _, known := a[name]; !known {
					all = append(all, fmt.Sprintf("%s.%s: kustomize nothing, the chart %v", path, name, value))
				}
			}
			slices.Sort(all)
			return all
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			for i := range a {
				all = append(all, differences(fmt.Sprintf("%s[%d]", path, i), a[i], b[i])...)
			}
			return all
		}
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return []string{fmt.Sprintf("%s: kustomize %v, the chart %v", path, a, b)}
}

// refusals: the schema is closed, and knows ranges and names.
func (s *stage) refusals() error {
	bad := []struct{ values, complaint string }{
		{"rollout=", "/rollout"},
		{"rollout=Frontend", "/rollout"},
		{"replica=3", "'replica' not allowed"},
		{"image.repo=x", "'repo' not allowed"},
		{"image.repository=registry/splitway:1", "/image/repository"},
		{"image.pullPolicy=Sometimes", "/image/pullPolicy"},
		{"replicas=0", "/replicas"},
		{"replicas=two", "/replicas"},
		{"ports[0].name=http,ports[0].listen=70000,ports[0].service=80", "/ports/0/listen"},
		{"ports[0].name=admin,ports[0].listen=8080,ports[0].service=80", "/ports/0/name"},
		{"ports[0].name=http,ports[0].listen=9090,ports[0].service=80", "/ports/0/listen"},
		{"port=http", "'port' not allowed"},
		{"drain.delaySeconds=5s", "/drain/delaySeconds"},
		{"drain.timeout=5", "'timeout' not allowed"},
		{"entry.name=frontend service", "/entry/name"},
		{"versions.create=true", "/versions"},
		{"resources.limit.memory=1Gi", "'limit' not allowed"},
		{"resources.limits.memory=lots", "/resources/limits/memory"},
		{"autoscaling.cpu=170", "/autoscaling/cpu"},
		{"rbac.write=true", "'write' not allowed"},
		{"networkPolicy.adminFrom=monitoring", "/networkPolicy/adminFrom"},
		{"serviceMonitor.interval=15", "/serviceMonitor/interval"},
		{"prometheusRule.interval=15s", "'interval' not allowed"},
		{"dashboard.labels=grafana", "/dashboard/labels"},
		{"analysis.prometheus=prometheus:9090", "/analysis/prometheus"},
		{"extraArgs={run}", "/extraArgs/0"},
		{"extraEnv[0].value=x", "missing property 'name'"},
		{"admin.token=secret", "'token' not allowed"},
		{"accessLog.format=yaml", "/accessLog/format"},
		{"accessLog.sample=0.05", "/accessLog/sample"},
		{"traces.endpoint=tempo:4317", "/traces/endpoint"},
		{"traces.ratio=5", "/traces/ratio"},
		{"disruptionBudget.maxUnavailable=all", "/disruptionBudget/maxUnavailable"},
	}
	for _, one := range bad {
		_, err := s.helm("template", "splitway", "CHART", "--set", "rollout=x", "--set", one.values)
		if err == nil {
			return fmt.Errorf("the chart takes %s", one.values)
		}
		if !strings.Contains(err.Error(), one.complaint) {
			return fmt.Errorf("expected the refusal of %s to name %s, found %w", one.values, one.complaint, err)
		}
	}
	s.say("%d bad values are refused, each by its name", len(bad))
	return nil
}

// accepted: all that is shipped is taken by the real API server, in a namespace that enforces the strictest of the Pod
// Security Standards, without a warning. Nothing is written but the namespace and two resource definitions.
func accepted(s *stage) error {
	if err := s.apply("restricted.yaml"); err != nil {
		return err
	}
	if err := s.apply("prometheus-operator-crds.yaml"); err != nil {
		return err
	}
	for _, definition := range []string{"servicemonitors", "prometheusrules"} {
		if _, err := s.kubectl("wait", "--for", "condition=established", "--timeout", "30s", "crd/"+definition+".monitoring.coreos.com"); err != nil {
			return err
		}
	}
	everything := []string{
		"components/analysis", "components/settings", "components/autoscaling", "components/service-monitor",
		"components/rules", "components/dashboard",
	}
	for _, one := range []struct {
		name       string
		resources  []string
		components []string
	}{
		{"base", []string{"base"}, nil},
		{"tracing-demo-frontend", []string{"overlays/tracing-demo-frontend"}, nil},
		{"five-steps", []string{"overlays/five-steps"}, nil},
		{"inert-provider", []string{"overlays/inert-provider"}, nil},
		{"sidecar", []string{"overlays/sidecar"}, nil},
		{"everything", []string{"overlays/tracing-demo-frontend"}, everything},
		{"without-pods", []string{"base"}, []string{"components/without-pods"}},
	} {
		folder, err := s.kustomization("accepted-"+one.name, one.resources, one.components)
		if err != nil {
			return err
		}
		answer, err := s.kubectl("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-k", folder)
		if err != nil {
			return err
		}
		s.say("kustomize %s: %d objects taken", one.name, strings.Count(answer, "(server dry run)"))
	}
	for _, overlay := range []string{app, "five-steps", "inert-provider"} {
		if err := s.lint(overlay); err != nil {
			return err
		}
	}
	for i, values := range chartValues {
		text, err := s.helm("template", "splitway", "CHART", "--namespace", namespace, "--set", "rollout="+app, "--set", values)
		if err != nil {
			return err
		}
		file := s.folder(fmt.Sprintf("chart-%d.yaml", i))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		if _, err := s.kubectl("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", file); err != nil {
			return fmt.Errorf("with %s: %w", values, err)
		}
	}
	s.say("Helm: %d sets of values taken", len(chartValues))
	return s.refusedPod()
}

// lint: what our own tool has to say about a shipped Rollout, which should be nothing.
func (s *stage) lint(overlay string) error {
	text, err := s.kubectl("kustomize", s.deploy("overlays", overlay))
	if err != nil {
		return err
	}
	command := exec.CommandContext(s.ctx, filepath.Join(s.binaries, "splitway"), "lint", "-", "--strict", "--rps", "20")
	command.Stdin = strings.NewReader(text)
	said, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "1 Rollout: ok") {
		return fmt.Errorf("splitway lint, of overlay %s: %v\n%s", overlay, err, said)
	}
	return nil
}

// chartValues use every value at least once.
var chartValues = []string{
	"replicas=2",
	"replicas=1,disruptionBudget.enabled=false,networkPolicy.enabled=false",
	"disruptionBudget.maxUnavailable=50%",
	"ports[0].name=http,ports[0].listen=8080,ports[0].service=8080,ports[0].application=http," +
		"ports[1].name=grpc,ports[1].listen=8081,ports[1].service=5001,ports[1].application=5001",
	"settings.limits.connections=5000,settings.timeouts.first-byte=10s",
	"image.repository=registry.example:5000/team/splitway,image.tag=v1.2.3,image.pullPolicy=Always,imagePullSecrets={one,two}",
	"autoscaling.enabled=true,autoscaling.minReplicas=3,autoscaling.maxReplicas=30,autoscaling.cpu=50",
	"entry.name=frontend-service,entry.ports[0].name=web,entry.ports[0].port=5000,entry.ports[0].to=http",
	"versions.create=true,versions.stable=frontend-stable,versions.canary=frontend-canary,versions.selector.app=x,versions.port=5000,versions.targetPort=5000",
	"drain.delaySeconds=15,drain.timeoutSeconds=300,extraArgs={--log-level=debug,--workers=2}",
	"resources.requests.cpu=2,resources.limits.memory=1Gi,podAnnotations.team=web,nodeSelector.kubernetes\\.io/os=linux",
	"tolerations[0].key=dedicated,tolerations[0].operator=Exists,tolerations[0].effect=NoSchedule,priorityClassName=system-cluster-critical",
	"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=arch," +
		"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
	"rbac.pods=false",
	"serviceMonitor.enabled=true,serviceMonitor.interval=1m,serviceMonitor.labels.release=prometheus",
	"prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
	"dashboard.enabled=true,dashboard.annotations.grafana_folder=Rollouts",
	"analysis.enabled=true,analysis.prometheus=https://metrics.example/prometheus",
	"admin.tokenSecret=splitway-admin,analysis.enabled=true,serviceMonitor.enabled=true",
	"accessLog.format=json,accessLog.sample=5%,accessLog.only=canary",
	"traces.endpoint=http://tempo.monitoring:4317,traces.protocol=grpc,traces.ratio=0.05",
	"traces.endpoint=https://traces.example/otlp,traces.protocol=http/protobuf,extraEnv[0].name=OTEL_EXPORTER_OTLP_TIMEOUT,extraEnv[0].value=5s",
	"networkPolicy.adminFrom=null",
}

// refusedPod shows that the namespace does enforce what the others have passed.
func (s *stage) refusedPod() error {
	_, err := s.kubectl("-n", namespace, "run", "lax", "--image", "splitway", "--dry-run=server")
	if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		return fmt.Errorf("expected a pod without a security context to be refused, found %v", err)
	}
	s.say("a pod without a security context is refused: the standard is in force")
	return nil
}
