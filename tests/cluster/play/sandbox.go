package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Where everything in the sandbox can be reached; the pods' gateway.
const gateway = "192.0.2.1"

// A second address of the same machine, for a second proxy.
const neighbour = "192.0.2.2"

// bridge connects the pods, each of which has a network namespace of its own.
const bridge = "pods"

func insideSandbox() bool {
	return os.Getpid() == 1
}

// enterSandbox starts this program again, in network, process and mount namespaces of its own, and waits for it. There
// it is process 1: when it ends, the kernel ends whatever was started under it and takes the network away. It ends, at
// the latest, when this outer half does, however that happens.
func enterSandbox(timeout time.Duration) int {
	// The kernel takes the end of the thread for the end of the parent.
	runtime.LockOSThread()
	asked := make(chan os.Signal, 2)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	inner := exec.Command("/proc/self/exe", os.Args[1:]...)
	inner.Stdin, inner.Stdout, inner.Stderr = nil, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
		// Out of the terminal's group: a Ctrl-C reaches it once, from here.
		Setpgid: true,
	}
	if err := inner.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot make namespaces (root is needed, and a kernel or container that allows it): %v\n", err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- inner.Wait() }()
	bound := time.After(timeout)
	for {
		select {
		case <-ended:
			return max(inner.ProcessState.ExitCode(), -inner.ProcessState.ExitCode())
		case <-asked:
			_ = inner.Process.Signal(syscall.SIGTERM)
			// Stopping is bounded inside; this is for an inside that hangs.
			bound = time.After(20 * time.Second)
		case <-bound:
			fmt.Fprintln(os.Stderr, "the inside hangs: killed")
			_ = inner.Process.Kill()
		}
	}
}

// prepareSandbox gives the namespaces a /proc that fits them, and a network.
func prepareSandbox(ctx context.Context) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot keep mounts to ourselves: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	lines := []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"addr add " + gateway + "/24 dev " + bridge,
		"addr add " + neighbour + "/24 dev " + bridge,
		"link set " + bridge + " up",
	}
	command := exec.CommandContext(ctx, "ip", "-batch", "-")
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot set up the network: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}
