// Kubelet is a double of the real one, for a machine without containers: it gives every Pod an address and a network
// namespace of its own, runs its containers as plain processes in there, probes them, tells the API server, and ends
// them as the Pod asks. Scheduling is part of it: there is one Node.
//
// What it knows of a Pod: env (with fieldRef, $(NAME) and where Services are), command and args, ports, readiness, liveness and startup
// probes, preStop, terminationGracePeriodSeconds, restartPolicy. What it does not know it refuses in the Pod's status
// (init containers but sidecars, volumes but emptyDir and configMap, env from Secrets or ConfigMaps) or ignores because a process has
// no such thing (resources, security contexts).
//
//   - node.go: the Pods of this Node, and the Node itself;
//   - pod.go: one Pod from its start to its deletion; status.go: what is told of it;
//   - container.go: one process and its successors; probe.go: whether it is well; environment.go: what it is started with;
//   - network.go: namespace and address of a Pod; identity.go: its service account's token; volume.go: what is mounted.
package main

import (
	"context"
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		pause()
		return
	}
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server, with the rights of a kubelet")
	images := flag.String("images", "", "folder with one executable file per image, called as the image without registry and tag")
	logs := flag.String("logs", "", "folder for what the containers write, a file for each")
	bridge := flag.String("bridge", "pods", "network bridge that the Pods are connected to; it has the first address of 192.0.2.0/24")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatalf("kubeconfig %q: %v", *kubeconfig, err)
	}
	// One client for all Pods: the defaults (5 requests per second) would hold back a rollout of a dozen Pods.
	config.QPS, config.Burst = 200, 400
	config.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		log.Fatalf("kubeconfig %q: %v", *kubeconfig, err)
	}
	authority, err := os.ReadFile(config.CAFile)
	if err != nil {
		log.Fatalf("kubeconfig %q: it has to name the authority's file: %v", *kubeconfig, err)
	}
	n := &node{
		client: client, images: *images, logs: *logs, network: newNetwork(*bridge), pods: map[string]*pod{},
		server: server, authority: authority,
	}
	if err := n.run(ctx); err != nil {
		log.Fatal(err)
	}
}
