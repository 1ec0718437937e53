package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe watches over one process until ctx ends, which is when the process does.
func (c *container) probe(ctx context.Context) {
	if c.spec.StartupProbe != nil {
		up := c.repeat(ctx, "startup", c.spec.StartupProbe, func(well bool) (goOn bool) {
			if !well {
				c.fail("startup")
			}
			return false
		})
		if !up {
			return
		}
	}
	c.change(func() { c.started, c.ready = true, c.spec.ReadinessProbe == nil })
	c.once.Do(func() { close(c.up) })
	var probes sync.WaitGroup
	if c.spec.ReadinessProbe != nil {
		probes.Go(func() {
			c.repeat(ctx, "readiness", c.spec.ReadinessProbe, func(well bool) bool {
				// Not after the process has ended: a late answer must not make ready again what has been written off.
				if ctx.Err() == nil {
					c.change(func() { c.ready = well })
				}
				return true
			})
		})
	}
	if c.spec.LivenessProbe != nil {
		probes.Go(func() {
			c.repeat(ctx, "liveness", c.spec.LivenessProbe, func(well bool) bool {
				if !well && !c.pod.isEnding() {
					c.fail("liveness")
				}
				return well
			})
		})
	}
	probes.Wait()
}

func (c *container) fail(kind string) {
	log.Printf("%s/%s: the %s probe has failed, the container is ended", c.pod.object.Namespace, c.pod.object.Name, kind)
	grace := int64(30)
	if seconds := c.pod.object.Spec.TerminationGracePeriodSeconds; seconds != nil {
		grace = *seconds
	}
	go c.stop(time.Now().Add(time.Duration(grace) * time.Second))
}

// repeat asks every period and calls changed when so many answers in a row say the same (the first time, too). It
// returns what was found last, when changed says false or ctx ends.
func (c *container) repeat(ctx context.Context, kind string, spec *corev1.Probe, changed func(well bool) (goOn bool)) bool {
	wait := time.NewTimer(time.Duration(spec.InitialDelaySeconds) * time.Second)
	defer wait.Stop()
	var inRow int32
	var known, well, lastWell bool
	for {
		select {
		case <-ctx.Done():
			return known && well
		case <-wait.C:
		}
		wait.Reset(time.Duration(spec.PeriodSeconds) * time.Second)
		err := c.ask(ctx, spec)
		if ctx.Err() != nil {
			return known && well
		}
		if now := err == nil; now != lastWell || inRow == 0 {
			lastWell, inRow = now, 0
			if err != nil {
				log.Printf("%s/%s: %s probe: %v", c.pod.object.Namespace, c.pod.object.Name, kind, err)
			}
		}
		inRow++
		enough := spec.FailureThreshold
		if lastWell {
			enough = spec.SuccessThreshold
		}
		if inRow >= enough && (!known || lastWell != well) {
			known, well = true, lastWell
			if !changed(well) {
				return well
			}
		}
	}
}

func (c *container) ask(ctx context.Context, spec *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(spec.TimeoutSeconds)*time.Second)
	defer cancel()
	switch {
	case spec.HTTPGet != nil:
		return c.httpGet(ctx, spec.HTTPGet)
	case spec.TCPSocket != nil:
		address, err := c.address(spec.TCPSocket.Host, spec.TCPSocket.Port)
		if err != nil {
			return err
		}
		connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	case spec.Exec != nil:
		return c.execute(ctx, spec.Exec.Command)
	}
	return errors.New("this double of a kubelet knows httpGet, tcpSocket and exec probes only")
}

// One connection per question, like the real one. A probe trusts any certificate, like the real one.
var prober = http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (c *container) httpGet(ctx context.Context, get *corev1.HTTPGetAction) error {
	address, err := c.address(get.Host, get.Port)
	if err != nil {
		return err
	}
	scheme := "http"
	if get.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+get.Path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-probe/double")
	for _, header := range get.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
		if header.Name == "Host" {
			request.Host = header.Value
		}
	}
	answer, err := prober.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("%s answered %s", request.URL, answer.Status)
	}
	return nil
}

// execute runs a command beside the process.
func (c *container) execute(ctx context.Context, argv []string) error {
	variables, err := c.environment()
	if err != nil {
		return err
	}
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	if process == nil {
		return errors.New("the container does not run")
	}
	// In all namespaces of the process, as `kubectl exec` would be.
	number := strconv.Itoa(process.Pid)
	inside := exec.Command("nsenter", append([]string{"--target", number, "--net", "--mount", "--wd=/", "--"}, argv...)...)
	var output bytes.Buffer
	inside.Env, inside.Stdout, inside.Stderr = variables.list(), &output, &output
	if err := inside.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = inside.Process.Kill() })
	defer stop()
	if err := inside.Wait(); err != nil {
		return fmt.Errorf("%v: %w: %s", argv, err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

func (c *container) address(host string, at intstr.IntOrString) (string, error) {
	if host == "" {
		host = c.pod.sandbox.address.String()
	}
	number := int32(at.IntValue())
	if at.Type == intstr.String && number == 0 {
		var err error
		if number, err = port(c.spec, at.StrVal); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(number))), nil
}
