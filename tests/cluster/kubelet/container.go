package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// After a preStop hook that used up the grace period, the process gets this much all the same.
const leastGrace = 2 * time.Second

// A container that has ended is started again at once, then after 1, 2, 4 and at most 8 s. (The real kubelet waits 10 s
// to 5 min; a test would only wait longer for the same.)
const mostBackoff = 8 * time.Second

// container is one process after another.
type container struct {
	pod     *pod
	spec    *corev1.Container
	sidecar bool // an init container that is always restarted: begins before the others, ends after them

	up   chan struct{} // closed when it has started for the first time
	once sync.Once

	mu       sync.Mutex
	process  *os.Process
	ended    chan struct{} // closed when the process is
	state    corev1.ContainerState
	last     corev1.ContainerState
	restarts int32
	started  bool // it runs, and its startup probe has passed
	ready    bool
}

// notStarted says why there is no process, in the words that a real kubelet has for it.
type notStarted struct {
	reason string
	error
}

func newContainer(p *pod, spec *corev1.Container, sidecar bool) *container {
	c := &container{pod: p, spec: spec, sidecar: sidecar, up: make(chan struct{})}
	c.state.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	return c
}

// run returns when the container will not run again.
func (c *container) run() {
	for backoff := time.Duration(0); ; backoff = min(max(2*backoff, time.Second), mostBackoff) {
		code, err := c.runOnce()
		if c.pod.isEnding() {
			return
		}
		waiting := &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
		var not notStarted
		policy := c.pod.object.Spec.RestartPolicy
		if c.sidecar {
			policy = corev1.RestartPolicyAlways
		}
		switch {
		case errors.As(err, &not):
			log.Printf("%s/%s: %s: %v", c.pod.object.Namespace, c.pod.object.Name, not.reason, err)
			waiting = &corev1.ContainerStateWaiting{Reason: not.reason, Message: err.Error()}
			backoff = max(backoff, time.Second)
		case policy == corev1.RestartPolicyNever, policy == corev1.RestartPolicyOnFailure && code == 0:
			return
		}
		c.change(func() {
			if c.state.Terminated != nil {
				c.last, c.state = c.state, corev1.ContainerState{}
				c.restarts++
			}
			c.state.Waiting = waiting
		})
		select {
		case <-time.After(backoff):
		case <-c.pod.ending:
			return
		}
	}
}

// runOnce starts the process, has it probed, and waits for its end.
func (c *container) runOnce() (int32, error) {
	command, err := c.command()
	if err != nil {
		return 0, err
	}
	file, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, notStarted{"CreateContainerError", err}
	}
	defer file.Close()
	command.Stdout, command.Stderr = file, file
	// A group of its own: what the process leaves behind is ended with it, as in a real container.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	c.mu.Lock()
	if c.pod.isEnding() {
		c.mu.Unlock()
		return 0, nil
	}
	if err := command.Start(); err != nil {
		c.mu.Unlock()
		return 0, notStarted{"RunContainerError", err}
	}
	begun := metav1.NewTime(time.Now().Truncate(time.Second))
	ended := make(chan struct{})
	c.process, c.ended = command.Process, ended
	c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: begun}}
	c.mu.Unlock()
	c.pod.notice()

	probing, stopProbing := context.WithCancel(context.Background())
	var probes sync.WaitGroup
	probes.Go(func() { c.probe(probing) })
	err = command.Wait()
	stopProbing()
	probes.Wait()
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)

	over := &corev1.ContainerStateTerminated{
		StartedAt: begun, FinishedAt: metav1.NewTime(time.Now().Truncate(time.Second)), Reason: "Completed",
		ContainerID: containerID(command.Process),
	}
	if err != nil {
		over.Reason, over.ExitCode = "Error", int32(command.ProcessState.ExitCode())
		if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			over.Signal, over.ExitCode = int32(status.Signal()), 128+int32(status.Signal())
		}
	}
	c.change(func() {
		c.process, c.started, c.ready = nil, false, false
		c.state = corev1.ContainerState{Terminated: over}
	})
	close(ended)
	return over.ExitCode, nil
}

// stop ends the process that runs now: preStop hook, SIGTERM, at the deadline SIGKILL.
func (c *container) stop(deadline time.Time) {
	c.mu.Lock()
	process, ended := c.process, c.ended
	c.mu.Unlock()
	if process == nil {
		return
	}
	if hook := c.spec.Lifecycle; hook != nil && hook.PreStop != nil {
		c.preStop(hook.PreStop, deadline, ended)
		if least := time.Now().Add(leastGrace); deadline.Before(least) {
			deadline = least
		}
	}
	_ = process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		return
	case <-time.After(time.Until(deadline)):
	case <-c.pod.forgotten:
	}
	_ = process.Kill()
}

func (c *container) preStop(hook *corev1.LifecycleHandler, deadline time.Time, ended chan struct{}) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	go func() {
		select {
		case <-ended:
		case <-c.pod.forgotten:
		case <-ctx.Done():
		}
		cancel()
	}()
	var err error
	switch {
	case hook.Sleep != nil:
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
	case hook.Exec != nil:
		err = c.execute(ctx, hook.Exec.Command)
	case hook.HTTPGet != nil:
		err = c.httpGet(ctx, hook.HTTPGet)
	}
	if err != nil {
		log.Printf("%s/%s: preStop: %v", c.pod.object.Namespace, c.pod.object.Name, err)
	}
}

// command is what the image does, or what the Pod says instead.
func (c *container) command() (*exec.Cmd, error) {
	image := c.spec.Image
	name := image[strings.LastIndex(image, "/")+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	entry := filepath.Join(c.pod.node.images, name)
	if _, err := os.Stat(entry); err != nil {
		return nil, notStarted{"ErrImagePull", fmt.Errorf("image %q: there is no file %q in the folder of images", image, name)}
	}
	variables, err := c.environment()
	if err != nil {
		return nil, notStarted{"CreateContainerConfigError", err}
	}
	argv := append(variables.expandAll(c.spec.Command), variables.expandAll(c.spec.Args)...)
	if len(c.spec.Command) == 0 {
		argv = append([]string{entry}, argv...)
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, notStarted{"CreateContainerConfigError", err}
	}
	argv = mounted(mounts, argv)
	command := c.pod.sandbox.command(argv[0], argv[1:]...)
	command.Env = variables.list()
	return command, nil
}

func (c *container) logFile() string {
	return filepath.Join(c.pod.node.logs, fmt.Sprintf("%s_%s_%s.log", c.pod.object.Namespace, c.pod.object.Name, c.spec.Name))
}

func (c *container) change(by func()) {
	c.mu.Lock()
	by()
	c.mu.Unlock()
	c.pod.notice()
}

func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.started
	status := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, State: *c.state.DeepCopy(),
		LastTerminationState: *c.last.DeepCopy(), RestartCount: c.restarts, Started: &started, Ready: c.ready,
	}
	switch {
	case c.process != nil:
		status.ContainerID = containerID(c.process)
	case c.state.Terminated != nil:
		status.ContainerID = c.state.Terminated.ContainerID
	}
	return status
}

// containerID carries the process number: a test that plays a crash reads it there.
func containerID(process *os.Process) string {
	return fmt.Sprintf("process://%d", process.Pid)
}
