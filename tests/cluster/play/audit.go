package main

import (
	"bufio"
	"encoding/json"
	"os"
)

// acts counts what a user has done, by the server's audit log: "list pods", "patch rollouts/status".
func (p *plane) acts(user string) (map[string]int, error) {
	file, err := os.Open(p.folder("logs/audit.jsonl"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	acts := map[string]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Verb       string
			RequestURI string
			User       struct{ Username string }
			ObjectRef  *struct{ Resource, Subresource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, err
		}
		if line.User.Username != user {
			continue
		}
		act := line.Verb + " " + line.RequestURI
		if of := line.ObjectRef; of != nil {
			act = line.Verb + " " + of.Resource
			if of.Subresource != "" {
				act += "/" + of.Subresource
			}
		}
		acts[act]++
	}
	return acts, lines.Err()
}
