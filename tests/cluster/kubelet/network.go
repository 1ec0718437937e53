package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// network hands out the addresses of 192.0.2.0/24 (RFC 5737: for documentation, so never anybody's own).
type network struct {
	bridge  string
	gateway netip.Addr

	mu sync.Mutex
	// The one that has been free for longest comes first: a client with an old address must not find another Pod there.
	free []netip.Addr
}

func newNetwork(bridge string) *network {
	n := &network{bridge: bridge, gateway: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	for last := byte(10); last < 250; last++ {
		n.free = append(n.free, netip.AddrFrom4([4]byte{192, 0, 2, last}))
	}
	return n
}

// sandbox is a network namespace with one address. It exists as long as the process that does nothing in it.
type sandbox struct {
	address netip.Addr
	network *network
	holder  *exec.Cmd
}

func (n *network) open() (*sandbox, error) {
	n.mu.Lock()
	if len(n.free) == 0 {
		n.mu.Unlock()
		return nil, fmt.Errorf("no address of 192.0.2.0/24 is free")
	}
	address := n.free[0]
	n.free = n.free[1:]
	n.mu.Unlock()

	holder := exec.Command("/proc/self/exe", "pause")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	s := &sandbox{address: address, network: n, holder: holder}
	if err := holder.Start(); err != nil {
		s.holder = nil
		s.close()
		return nil, fmt.Errorf("cannot make a network namespace: %w", err)
	}
	last := address.As4()[3]
	outer := fmt.Sprintf("pod%d", last)
	// The hardware address follows from the address: whoever talks to a later Pod with the same address need not learn it.
	outside := fmt.Sprintf("link add %s type veth peer name eth0 address 02:00:c0:00:02:%02x netns %d\nlink set %s master %s up\n",
		outer, last, holder.Process.Pid, outer, n.bridge)
	inside := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\nroute add default via %s\n", address, n.gateway)
	for _, batch := range []struct {
		command *exec.Cmd
		lines   string
	}{
		{exec.Command("ip", "-batch", "-"), outside},
		{s.command("ip", "-batch", "-"), inside},
	} {
		batch.command.Stdin = strings.NewReader(batch.lines)
		if output, err := batch.command.CombinedOutput(); err != nil {
			s.close()
			return nil, fmt.Errorf("cannot set up %s: %w: %s", address, err, strings.TrimSpace(string(output)))
		}
	}
	return s, nil
}

// command runs inside. nsenter becomes the program: the process number is the program's own.
func (s *sandbox) command(name string, arguments ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", s.holder.Process.Pid), "--", name}, arguments...)...)
}

func (s *sandbox) close() {
	if s.holder != nil {
		_ = s.holder.Process.Kill()
		_ = s.holder.Wait()
	}
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	s.network.free = append(s.network.free, s.address)
}

// pause is the holder's whole work.
func pause() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
}
