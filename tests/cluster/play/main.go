// Play starts a real control plane in namespaces of its own, plays rollouts on it by the commands that users type, and
// checks what the API and the pods show. It is called by the script `run`, which has built everything before.
//
//   - sandbox.go: the network and process namespaces that everything lives and ends in;
//   - plane.go: etcd, API server, controllers, kubelet and kubeproxy; child.go: one started program;
//   - world.go: everything that watchers of the API have seen, as a recording and as the latest state;
//   - kubectl.go, commands.go: what users type; expect.go, history.go, asked.go: facts about what has been seen;
//     audit.go: who did what;
//   - splitway.go: the proxy under test; gate.go: a way to the API server that can be cut;
//   - list.go: all scenarios; scenario.go: how they are played; scene.go: what several of them are played on;
//   - traffic.go: shares, losses and takeovers, by the load of ../load, and the table of them;
//   - a file for each group of scenarios: pods.go, first_case.go, walks.go, killed.go, providers.go, outages.go, replicas.go,
//     rollback.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options come from the script.
type options struct {
	binaries string // the control plane's
	crds     string
	source   string // tests/cluster: manifests and images
	work     string // made anew; logs and recordings stay there
	hold     bool
	quick    bool
	timeout  time.Duration
	names    []string
}

func main() {
	var o options
	flag.StringVar(&o.binaries, "binaries", "", "folder of the built programs, kubelet and splitway among them")
	flag.StringVar(&o.crds, "crds", "", "folder of the custom resource definitions")
	flag.StringVar(&o.source, "source", "", "folder with manifests/ and images/")
	flag.StringVar(&o.work, "work", "", "folder for data, logs and recordings; what is in it goes")
	flag.BoolVar(&o.hold, "hold", false, "play nothing: keep the control plane up until Ctrl-C, and say how to reach it")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "bound for everything together")
	flag.BoolVar(&o.quick, "quick", false, "only a few scenarios: two minutes")
	list := flag.Bool("list", false, "show the scenarios")
	flag.Parse()
	o.names = flag.Args()
	if *list {
		for _, s := range scenarios {
			fmt.Printf("%-24s %s\n", s.name, s.about)
		}
		return
	}
	if !insideSandbox() {
		os.Exit(enterSandbox(o.timeout + 20*time.Second))
	}
	if err := inside(o); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		fmt.Fprintln(os.Stderr, "logs and recordings:", o.work)
		os.Exit(1)
	}
}

func inside(o options) (err error) {
	asked, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	ctx, cancelTimeout := context.WithTimeoutCause(asked, o.timeout, fmt.Errorf("not finished within %v", o.timeout))
	defer cancelTimeout()
	chosen, err := choose(o.names, o.quick)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := prepareSandbox(ctx); err != nil {
		return err
	}
	plane, err := startPlane(ctx, o)
	defer func() {
		reason := plane.stop()
		switch {
		case o.hold && asked.Err() != nil:
			err = nil // asked for is no failure
		case err == nil || reason != nil && !errors.Is(err, reason):
			err = errors.Join(err, reason)
		}
	}()
	if err != nil {
		return err
	}
	fmt.Printf("control plane ready after %.1f s\n", time.Since(begun).Seconds())
	if o.hold {
		plane.explain()
		<-plane.ctx.Done()
		return nil
	}
	return plane.playAll(chosen)
}
