// Kubeproxy is a double of the real one: it makes the cluster addresses of Services answer. It needs no packet filter:
// each address is the machine's own, and each connection to it is taken and copied to a ready endpoint, chosen at
// random. As with the real one, a connection stays with its endpoint, whatever becomes of the Service meanwhile; other
// than with the real one, the endpoint sees this machine as the client. TCP only.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	discovery "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatalf("kubeconfig %q: %v", *kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Informer()
	slices := factory.Discovery().V1().EndpointSlices()
	d := &doors{open: map[string]*door{}, slices: slices.Lister()}
	slices.Informer()
	_, err = services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { d.service(object.(*corev1.Service)) },
		UpdateFunc: func(_, object any) { d.service(object.(*corev1.Service)) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			d.gone(object.(*corev1.Service))
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
}

// doors are the open ones, by address and port.
type doors struct {
	slices discovery.EndpointSliceLister

	mu   sync.Mutex
	open map[string]*door
}

func key(service *corev1.Service, port *corev1.ServicePort) string {
	return fmt.Sprintf("%s:%d", service.Spec.ClusterIP, port.Port)
}

// service opens what is not open yet, and closes ports that the Service has no more.
func (d *doors) service(service *corev1.Service) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := map[string]bool{}
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		if ip := service.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone || port.Protocol != corev1.ProtocolTCP {
			continue
		}
		at := key(service, port)
		wanted[at] = true
		if d.open[at] != nil {
			continue
		}
		// An address that is there already (of another port, say) is as good.
		_ = exec.Command("ip", "addr", "add", service.Spec.ClusterIP+"/32", "dev", "lo").Run()
		opened, err := newDoor(at, string(service.UID), func() []string { return d.ready(service.Namespace, service.Name, port.Name) })
		if err != nil {
			log.Printf("%s/%s: %v", service.Namespace, service.Name, err)
			continue
		}
		d.open[at] = opened
	}
	for at, door := range d.open {
		if door.owner == string(service.UID) && !wanted[at] {
			door.close()
			delete(d.open, at)
		}
	}
}

func (d *doors) gone(service *corev1.Service) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, door := range d.open {
		if door.owner == string(service.UID) {
			door.close()
			delete(d.open, at)
		}
	}
	if ip := service.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		_ = exec.Command("ip", "addr", "del", ip+"/32", "dev", "lo").Run()
	}
}

// ready lists the endpoints of one port of a Service, as the slices show them now.
func (d *doors) ready(namespace, name, port string) []string {
	of, err := d.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
	if err != nil {
		return nil
	}
	var ready []string
	for _, slice := range of {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil || *p.Name != port {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
					ready = append(ready, fmt.Sprintf("%s:%d", endpoint.Addresses[0], *p.Port))
				}
			}
		}
	}
	return ready
}
