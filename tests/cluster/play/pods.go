package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// pods is about our own double of a kubelet: scenarios that rely on a crash, an outage or a slow end must be able to.
func pods(s *stage) error {
	if err := s.apply("pods.yaml"); err != nil {
		return err
	}
	if err := s.until("a pod reads the API as its service account", 30*time.Second, runs("reader", 0)); err != nil {
		return err
	}
	acts, err := s.acts("system:serviceaccount:services:reader")
	if err != nil {
		return err
	}
	if acts["list pods"] == 0 {
		return fmt.Errorf("expected the audit log to show list pods, found %v", acts)
	}
	err = s.until("a pod without an image waits", 10*time.Second, func(w *world) error {
		c, err := w.container("without-image")
		if err == nil && (c.State.Waiting == nil || c.State.Waiting.Reason != "ErrImagePull") {
			err = fmt.Errorf("expected ErrImagePull, found %+v", c.State)
		}
		return err
	})
	if err != nil {
		return err
	}

	if err := s.killProcess("reader"); err != nil {
		return err
	}
	if err := s.until("a crashed container is started again", 30*time.Second, runs("reader", 1)); err != nil {
		return err
	}
	s.world.did("the API server crashes, and so does a container")
	s.crash("kube-apiserver")
	if err := s.killProcess("reader"); err != nil {
		return err
	}
	if err := s.revive("kube-apiserver"); err != nil {
		return err
	}
	if err := s.until("what has happened while the API server was away is told", 60*time.Second, runs("reader", 2)); err != nil {
		return err
	}

	if _, err := s.do("-n", namespace, "delete", "pod", "stubborn", "--wait=false"); err != nil {
		return err
	}
	return s.until("a process that does not end within its grace is killed", 30*time.Second, func(w *world) error {
		for _, e := range w.events {
			if e.Kind != "Pod" || e.Type != "DELETED" || e.Object.GetName() != "stubborn" {
				continue
			}
			pod, err := convert[corev1.Pod](e.Object)
			if err != nil {
				return err
			}
			if over := pod.Status.ContainerStatuses[0].State.Terminated; over == nil || over.Signal != int32(syscall.SIGKILL) {
				return fmt.Errorf("expected an end by signal 9, found %+v", pod.Status.ContainerStatuses[0].State)
			}
			return nil
		}
		return fmt.Errorf("the pod is still there")
	})
}

// runs wants the pod to be ready, after so many restarts.
func runs(name string, restarts int32) func(*world) error {
	return func(w *world) error {
		c, err := w.container(name)
		if err == nil && (!c.Ready || c.RestartCount != restarts) {
			err = fmt.Errorf("expected it to be ready after %d restarts, found ready=%v after %d: %+v", restarts, c.Ready, c.RestartCount, c.State)
		}
		return err
	}
}

// container is the status of a Pod's only container.
func (w *world) container(pod string) (corev1.ContainerStatus, error) {
	object, err := as[corev1.Pod](w, "Pod", pod)
	if err != nil {
		return corev1.ContainerStatus{}, err
	}
	if len(object.Status.ContainerStatuses) != 1 {
		return corev1.ContainerStatus{}, fmt.Errorf("pod %s has %d container statuses", pod, len(object.Status.ContainerStatuses))
	}
	return object.Status.ContainerStatuses[0], nil
}

// killProcess plays a crash of the pod's only container.
func (s *stage) killProcess(pod string) error {
	var c corev1.ContainerStatus
	err := s.world.until(s.ctx, "its process", 10*time.Second, func(w *world) (err error) {
		c, err = w.container(pod)
		return err
	})
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(strings.TrimPrefix(c.ContainerID, "process://"))
	if err != nil {
		return fmt.Errorf("pod %s has no process: %w", pod, err)
	}
	s.world.did("kill the process of pod " + pod)
	return syscall.Kill(number, syscall.SIGKILL)
}
