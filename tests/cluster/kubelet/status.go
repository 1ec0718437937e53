package main

import (
	"context"
	"encoding/json"
	"log"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tell writes the status if it has changed. The patch names the UID, so that it never lands on a successor of the name,
// and no resourceVersion: nobody else writes the status of a Pod.
func (p *pod) tell() error {
	status := p.status()
	if equality.Semantic.DeepEqual(status, p.told) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.object.UID}, "status": status})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = p.node.client.CoreV1().Pods(p.object.Namespace).Patch(ctx, p.object.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		p.told = status
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		err = nil // gone: the watch will say so
	default:
		log.Printf("%s/%s: cannot tell the status: %v", p.object.Namespace, p.object.Name, err)
	}
	return err
}

func (p *pod) status() corev1.PodStatus {
	status := *p.told.DeepCopy()
	if over(p.object.Status.Phase) {
		return status
	}
	if p.refused != "" {
		status.Phase, status.Reason, status.Message = corev1.PodFailed, "Refused", p.refused
		return status
	}
	address := p.sandbox.address.String()
	status.PodIP, status.PodIPs = address, []corev1.PodIP{{IP: address}}
	gateway := p.node.network.gateway.String()
	status.HostIP, status.HostIPs = gateway, []corev1.HostIP{{IP: gateway}}
	if status.StartTime == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		status.StartTime = &now
	}
	status.ContainerStatuses, status.InitContainerStatuses = nil, nil
	ready := true
	for _, c := range p.containers {
		of := c.status()
		ready = ready && of.Ready
		if c.sidecar {
			status.InitContainerStatuses = append(status.InitContainerStatuses, of)
		} else {
			status.ContainerStatuses = append(status.ContainerStatuses, of)
		}
	}
	status.Phase = p.phase(status.ContainerStatuses)
	condition(&status, corev1.PodScheduled, true, "")
	condition(&status, corev1.PodInitialized, true, "")
	reason := "ContainersNotReady"
	if over(status.Phase) {
		reason = "PodCompleted"
	}
	condition(&status, corev1.ContainersReady, ready, reason)
	condition(&status, corev1.PodReady, ready, reason)
	return status
}

func (p *pod) phase(containers []corev1.ContainerStatus) corev1.PodPhase {
	waiting, ended, failed := 0, 0, 0
	for _, c := range containers {
		switch {
		case c.State.Waiting != nil && c.LastTerminationState.Terminated == nil:
			waiting++
		case c.State.Terminated != nil:
			ended++
			if c.State.Terminated.ExitCode != 0 {
				failed++
			}
		}
	}
	switch {
	case waiting > 0:
		return corev1.PodPending
	case ended < len(containers) || (p.object.Spec.RestartPolicy == corev1.RestartPolicyAlways && !p.isEnding()):
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	default:
		return corev1.PodSucceeded
	}
}

// condition keeps the time of the last transition: controllers measure minReadySeconds from it.
func condition(status *corev1.PodStatus, of corev1.PodConditionType, holds bool, whyNot string) {
	value, reason := corev1.ConditionTrue, ""
	if !holds {
		value, reason = corev1.ConditionFalse, whyNot
	}
	for i := range status.Conditions {
		existing := &status.Conditions[i]
		if existing.Type == of {
			if existing.Status != value {
				existing.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
			}
			existing.Status, existing.Reason = value, reason
			return
		}
	}
	status.Conditions = append(status.Conditions, corev1.PodCondition{
		Type: of, Status: value, Reason: reason, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
	})
}
