package main

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func made(env ...corev1.EnvVar) *container {
	p := newPod(&node{network: newNetwork("pods")}, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "app-1", Labels: map[string]string{"app": "app"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Env: env}}},
	})
	p.sandbox = &sandbox{address: netip.MustParseAddr("192.0.2.10")}
	return p.containers[0]
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func TestVariablesComeFromFieldsAndFromThoseBeforeThem(t *testing.T) {
	t.Setenv("PATH", "/programs")
	e, err := made(
		field("POD_IP", "status.podIP"), field("APP", "metadata.labels['app']"), corev1.EnvVar{Name: "AT", Value: "$(POD_IP):5000 $(NOBODY) $$(APP)"},
	).environment()
	if err != nil {
		t.Fatal(err)
	}
	expected := []string{"PATH=/programs", "HOSTNAME=app-1", "POD_IP=192.0.2.10", "APP=app", "AT=192.0.2.10:5000 $(NOBODY) $(APP)"}
	if found := e.list(); !slices.Equal(found, expected) {
		t.Fatalf("expected %q, found %q", expected, found)
	}
	if found := e.expandAll([]string{"--at", "$(AT)"}); !slices.Equal(found, []string{"--at", "192.0.2.10:5000 $(NOBODY) $(APP)"}) {
		t.Fatalf("found %q", found)
	}
}

func TestAVariableFromASecretIsRefusedByItsName(t *testing.T) {
	_, err := made(corev1.EnvVar{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "key"}}}).environment()
	if err == nil || err.Error() != "env KEY: this double of a kubelet knows only fieldRef" {
		t.Fatalf("found %v", err)
	}
}
