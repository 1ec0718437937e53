package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// check asks a server that answers as listed, and wants the changes as listed.
func check(t *testing.T, probe corev1.Probe, answers []int, expected []bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked == len(answers) {
			cancel()
			return
		}
		w.WriteHeader(answers[asked])
		asked++
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(at.Port())
	if err != nil {
		t.Fatal(err)
	}
	c := made()
	c.pod.sandbox.address = netip.MustParseAddr(at.Hostname())
	probe.HTTPGet = &corev1.HTTPGetAction{Path: "/health", Port: intstr.FromInt(number)}
	probe.TimeoutSeconds = 10
	var found []bool
	c.repeat(ctx, "readiness", &probe, func(well bool) bool {
		found = append(found, well)
		return true
	})
	if !slices.Equal(found, expected) {
		t.Fatalf("%v: expected %v, found %v", answers, expected, found)
	}
}

func TestOnlySoManyAnswersInARowChangeWhatAProbeSays(t *testing.T) {
	strict := corev1.Probe{SuccessThreshold: 1, FailureThreshold: 3}
	check(t, strict, []int{200, 500, 500, 200, 500, 500, 500, 500, 200}, []bool{true, false, true})
	check(t, strict, []int{503, 404, 399}, []bool{true})
	slow := corev1.Probe{SuccessThreshold: 2, FailureThreshold: 1}
	check(t, slow, []int{200, 500, 200, 200, 200}, []bool{false, true})
}
