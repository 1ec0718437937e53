package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// identityFolder is where every client library looks for the token of the Pod's service account.
const identityFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

// identity makes what a Pod with a service account finds in identityFolder. The token is a real one, bound to the Pod:
// the server stops taking it when the Pod is gone.
func (p *pod) identity() (string, error) {
	account := p.object.Spec.ServiceAccountName
	if mount := p.object.Spec.AutomountServiceAccountToken; account == "" || mount != nil && !*mount {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	hour := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &hour,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.object.Name, UID: p.object.UID},
	}}
	answer, err := p.node.client.CoreV1().ServiceAccounts(p.object.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("no token for service account %s: %w", account, err)
	}
	folder := filepath.Join(p.node.logs, "..", "identities", string(p.object.UID))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{
		"token": []byte(answer.Status.Token), "namespace": []byte(p.object.Namespace), "ca.crt": p.node.authority,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return "", err
		}
	}
	return folder, nil
}
