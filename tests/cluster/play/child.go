package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// child is one program that runs until it is told to stop, and can be started again.
type child struct {
	name       string
	log        string
	env        []string
	argv       []string
	unexpected func(error) // called when it ends without having been told

	process *os.Process
	ended   chan struct{}
	told    *atomic.Bool
}

// start keeps what the program writes in a file, behind what an earlier run has written.
func (c *child) start() error {
	file, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	command := exec.Command(c.argv[0], c.argv[1:]...)
	command.Env, command.Stdout, command.Stderr = c.env, file, file
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", c.name, err)
	}
	ended, told := make(chan struct{}), new(atomic.Bool)
	c.process, c.ended, c.told = command.Process, ended, told
	go func() {
		err := command.Wait()
		close(ended)
		if !told.Load() {
			c.unexpected(fmt.Errorf("%s has ended (%v); its last lines:\n%s", c.name, err, lastLines(c.log)))
		}
	}()
	return nil
}

// stop asks, and after the grace makes it end.
func (c *child) stop(grace time.Duration) error {
	c.told.Store(true)
	_ = c.process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
		return nil
	case <-time.After(grace):
	}
	c.kill()
	return fmt.Errorf("%s has not ended within %v of SIGTERM", c.name, grace)
}

// kill is a crash.
func (c *child) kill() {
	c.told.Store(true)
	_ = c.process.Kill()
	<-c.ended
}

func lastLines(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}
