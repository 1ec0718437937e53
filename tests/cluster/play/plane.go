package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	etcdURL   = "http://127.0.0.1:2379"
	serverURL = "https://" + gateway + ":6443"
)

// plane is the control plane at work.
type plane struct {
	options
	// Done when the run is to end; the cause says why.
	ctx      context.Context
	fail     context.CancelCauseFunc
	children []*child // in the order in which they were started
	env      []string
	token    string // of system:masters
	proxy    string // of the proxy's service account

	scores    []score
	takeovers []takeover
	// Changes that proxies have followed, by their own metric, and how many of them within 100 ms.
	followed, soon int
}

func (o *options) folder(name string) string { return filepath.Join(o.work, name) }

// kubeconfig is the administrator's.
func (o *options) kubeconfig() string { return o.folder("kubeconfig") }

// startPlane returns a plane that can be stopped even when it failed to start.
func startPlane(ctx context.Context, o options) (*plane, error) {
	p := &plane{options: o}
	p.ctx, p.fail = context.WithCancelCause(ctx)
	p.env = []string{
		"PATH=" + o.binaries + ":" + os.Getenv("PATH"), "HOME=" + o.folder("home"),
		"KUBECONFIG=" + o.kubeconfig(), "POD_NAMESPACE=argo-rollouts",
	}
	for _, name := range []string{"logs", "home", "certificates"} {
		if err := os.MkdirAll(o.folder(name), 0o755); err != nil {
			return p, err
		}
	}
	if err := p.credentials(); err != nil {
		return p, err
	}
	if err := p.start("etcd", "server",
		"--data-dir", o.folder("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "default=http://127.0.0.1:2380",
	); err != nil {
		return p, err
	}
	if err := p.etcdReady(); err != nil {
		return p, err
	}
	if err := p.start("kube-apiserver", "kube-apiserver",
		"--etcd-servers", etcdURL, "--bind-address", "0.0.0.0", "--secure-port", "6443", "--advertise-address", gateway,
		"--cert-dir", o.folder("certificates"), "--service-cluster-ip-range", "198.51.100.0/24",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", o.folder("service-accounts.pem"),
		"--service-account-signing-key-file", o.folder("service-accounts.pem"),
		"--token-auth-file", o.folder("tokens.csv"), "--authorization-mode", "RBAC",
		"--disable-admission-plugins", "ServiceAccount",
		"--audit-policy-file", filepath.Join(o.source, "manifests", "audit-policy.yaml"), "--audit-log-path", o.folder("logs/audit.jsonl"),
	); err != nil {
		return p, err
	}
	if err := p.serverReady(); err != nil {
		return p, err
	}
	if err := p.writeKubeconfig(o.kubeconfig(), serverURL, p.token); err != nil {
		return p, err
	}
	if err := p.writeKubeconfig(o.folder("kubeconfig-proxy"), serverURL, p.proxy); err != nil {
		return p, err
	}
	if _, err := p.kubectl("apply", "--server-side", "-f", o.crds); err != nil {
		return p, err
	}
	if _, err := p.kubectl("wait", "--for", "condition=established", "--timeout", "30s", "crd", "--all"); err != nil {
		return p, err
	}
	if err := errors.Join(
		p.start("kube-controller-manager", "kube-controller-manager",
			"--kubeconfig", o.kubeconfig(), "--leader-elect=false", "--secure-port", "0",
			"--service-account-private-key-file", o.folder("service-accounts.pem"),
			"--controllers", strings.Join([]string{
				"replicaset-controller", "deployment-controller", "endpointslice-controller", "endpoints-controller",
				"serviceaccount-controller", "serviceaccount-token-controller", "garbage-collector-controller", "namespace-controller",
			}, ",")),
		p.start("rollouts-controller", "rollouts-controller",
			"--kubeconfig", o.kubeconfig(), "--leader-elect=false", "--healthzPort", "18080", "--metricsPort", "18090"),
		p.start("kubelet", "kubelet",
			"-kubeconfig", o.kubeconfig(), "-images", filepath.Join(o.source, "images"), "-logs", o.folder("logs"), "-bridge", bridge),
		p.start("kubeproxy", "kubeproxy", "-kubeconfig", o.kubeconfig()),
	); err != nil {
		return p, err
	}
	if err := p.ready("rollouts-controller", http.DefaultClient, "http://127.0.0.1:18080/healthz", ""); err != nil {
		return p, err
	}
	_, err := p.kubectl("wait", "--for", "create", "--timeout", "30s", "node/node")
	return p, err
}

func (p *plane) start(name, program string, arguments ...string) error {
	c := &child{
		name: name, log: filepath.Join(p.folder("logs"), name+".log"), env: p.env,
		argv: append([]string{filepath.Join(p.binaries, program)}, arguments...), unexpected: p.fail,
	}
	if err := c.start(); err != nil {
		return err
	}
	p.children = append(p.children, c)
	return nil
}

// crash ends a part of the control plane without a warning; revive starts it again, as it was.
func (p *plane) crash(name string) { p.child(name).kill() }

func (p *plane) revive(name string) error {
	if err := p.child(name).start(); err != nil {
		return err
	}
	switch name {
	case "etcd":
		return p.etcdReady()
	case "kube-apiserver":
		return p.serverReady()
	}
	return nil
}

// reviveAll is for after a scenario that failed in the middle of an outage of its own.
func (p *plane) reviveAll() error {
	for _, c := range p.children {
		select {
		case <-c.ended:
			if err := p.revive(c.name); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

func (p *plane) child(name string) *child {
	return p.children[slices.IndexFunc(p.children, func(c *child) bool { return c.name == name })]
}

func (p *plane) etcdReady() error {
	return p.ready("etcd", http.DefaultClient, etcdURL+"/readyz", "")
}

func (p *plane) serverReady() error {
	// The certificate that the server makes for itself is not known to us before the server is ready.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	return p.ready("kube-apiserver", &http.Client{Timeout: 2 * time.Second, Transport: transport}, serverURL+"/readyz", p.token)
}

// ready asks until the answer is 200.
func (p *plane) ready(name string, client *http.Client, url, token string) error {
	ctx, cancel := context.WithTimeoutCause(p.ctx, time.Minute, fmt.Errorf("%s is not ready after a minute", name))
	defer cancel()
	last := errors.New("nothing")
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := client.Do(request)
		if err == nil {
			text, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", answer.Status, text)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%s said last: %v)", context.Cause(ctx), name, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends what depends on others before the others, and removes all but logs and recordings. Its error is, first of
// all, the reason for which the run had to end before its time.
func (p *plane) stop() error {
	cause := context.Cause(p.ctx)
	p.fail(nil)
	var dependants errgroup.Group
	var servers []*child
	for _, c := range p.children {
		if c.name == "etcd" || c.name == "kube-apiserver" {
			servers = append(servers, c)
			continue
		}
		dependants.Go(func() error { return c.stop(5 * time.Second) })
	}
	failed := dependants.Wait()
	for _, c := range slices.Backward(servers) {
		// Its watches are still open; waiting for them to end by themselves proves nothing.
		_ = c.stop(time.Second)
	}
	for _, name := range []string{"etcd", "home", "identities", "volumes", "certificates", "kubeconfig", "kubeconfig-proxy", "tokens.csv", "service-accounts.pem"} {
		failed = errors.Join(failed, os.RemoveAll(p.folder(name)))
	}
	if failed == nil {
		return cause
	}
	return errors.Join(cause, failed)
}

func (p *plane) credentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(p.folder("service-accounts.pem"), text, 0o600); err != nil {
		return err
	}
	p.token, p.proxy = randomToken(), randomToken()
	lines := p.token + ",administrator,1,system:masters\n" +
		p.proxy + ",system:serviceaccount:services:splitway,2,\"system:serviceaccounts,system:serviceaccounts:services\"\n"
	return os.WriteFile(p.folder("tokens.csv"), []byte(lines), 0o600)
}

func randomToken() string {
	bytes := make([]byte, 16)
	_, _ = rand.Read(bytes) // never fails, by its documentation
	return hex.EncodeToString(bytes)
}

func (p *plane) writeKubeconfig(file, server, token string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, server, filepath.Join(p.folder("certificates"), "apiserver.crt"), token)
	return os.WriteFile(file, []byte(text), 0o600)
}

// explain tells a person who wants to look around how to get in.
func (p *plane) explain() {
	fmt.Printf(`In another terminal:
  nsenter --net=/proc/$(pgrep -n -x kube-apiserver)/ns/net env KUBECONFIG=%s PATH=%s:$PATH bash
  kubectl apply -f %s
Ctrl-C ends everything.
`, p.kubeconfig(), p.binaries, filepath.Join(p.source, "manifests", "first-case.yaml"))
}
