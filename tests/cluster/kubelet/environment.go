package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment is what a process is started with: PATH, where the API server is, and what the Pod says; nothing that
// depends on the shell that the test was called from.
type environment struct {
	values map[string]string
	names  []string // in order of appearance
}

func (e *environment) set(name, value string) {
	if _, known := e.values[name]; !known {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) list() []string {
	var list []string
	for _, name := range e.names {
		list = append(list, name+"="+e.values[name])
	}
	return list
}

// expandAll replaces $(NAME), and $$ by $. What names nothing stays.
func (e *environment) expandAll(texts []string) []string {
	var expanded []string
	for _, text := range texts {
		expanded = append(expanded, expansion.Expand(text, expansion.MappingFuncFor(e.values)))
	}
	return expanded
}

func (c *container) environment() (*environment, error) {
	e := &environment{values: map[string]string{}}
	e.set("PATH", os.Getenv("PATH"))
	e.set("HOSTNAME", c.pod.object.Name)
	if server := c.pod.node.server; server != nil {
		e.set("KUBERNETES_SERVICE_HOST", server.Hostname())
		e.set("KUBERNETES_SERVICE_PORT", server.Port())
	}
	for _, variable := range c.pod.links {
		e.set(variable.Name, variable.Value)
	}
	for _, from := range c.spec.EnvFrom {
		return nil, fmt.Errorf("envFrom: this double of a kubelet reads no ConfigMaps and Secrets: %v", from)
	}
	for _, variable := range c.spec.Env {
		value := expansion.Expand(variable.Value, expansion.MappingFuncFor(e.values))
		if from := variable.ValueFrom; from != nil {
			if from.FieldRef == nil {
				return nil, fmt.Errorf("env %s: this double of a kubelet knows only fieldRef", variable.Name)
			}
			var err error
			if value, err = c.pod.field(from.FieldRef.FieldPath); err != nil {
				return nil, fmt.Errorf("env %s: %w", variable.Name, err)
			}
		}
		e.set(variable.Name, value)
	}
	return e, nil
}

// serviceLinks are the variables that tell a Pod where the Services of its namespace are, those that exist when it begins.
func (p *pod) serviceLinks() []corev1.EnvVar {
	if wanted := p.object.Spec.EnableServiceLinks; wanted != nil && !*wanted {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	services, err := p.node.client.CoreV1().Services(p.object.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		log.Printf("%s/%s: begins without variables for Services: %v", p.object.Namespace, p.object.Name, err)
		return nil
	}
	var all []*corev1.Service
	for i := range services.Items {
		all = append(all, &services.Items[i])
	}
	return envvars.FromServices(all)
}

// field answers the paths that only a node knows, then those of the object.
func (p *pod) field(path string) (string, error) {
	switch path {
	case "status.podIP", "status.podIPs":
		return p.sandbox.address.String(), nil
	case "status.hostIP", "status.hostIPs":
		return p.node.network.gateway.String(), nil
	case "spec.nodeName":
		return nodeName, nil
	case "spec.serviceAccountName":
		return p.object.Spec.ServiceAccountName, nil
	}
	return fieldpath.ExtractFieldPathAsString(p.object, path)
}

// port resolves a name among the container's ports.
func port(spec *corev1.Container, name string) (int32, error) {
	for _, p := range spec.Ports {
		if p.Name == name {
			return p.ContainerPort, nil
		}
	}
	return 0, fmt.Errorf("container %s has no port called %q", spec.Name, name)
}
