// Prints the fields of a Rollout that the API server knows, for `splitway lint` (src/lint/fields.txt), from the CRD of
// the Argo Rollouts version that go.mod names:
//
//	cd tests/cluster && go run ./fields > ../../src/lint/fields.txt
//
// One line per distinct mapping, its number first, then its fields with their types; equal mappings share one line, so
// that the three kinds of containers cost little. `src/lint/fields.rs` reads it and says what the signs mean.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

const module = "github.com/argoproj/argo-rollouts"

type schema struct {
	Type         string             `json:"type"`
	Properties   map[string]*schema `json:"properties"`
	Required     []string           `json:"required"`
	Items        *schema            `json:"items"`
	Values       *schema            `json:"additionalProperties"`
	IntOrString  bool               `json:"x-kubernetes-int-or-string"`
	KeepsUnknown bool               `json:"x-kubernetes-preserve-unknown-fields"`
	Enum         []any              `json:"enum"`
}

// Mappings by what they contain.
type table struct {
	numbers map[string]int
	lines   []string
}

func main() {
	version, dir := moduleFacts()
	text, err := os.ReadFile(filepath.Join(dir, "manifests/crds/rollout-crd.yaml"))
	check(err)
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					Root *schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	check(yaml.Unmarshal(text, &crd))
	if len(crd.Spec.Versions) != 1 || crd.Spec.Versions[0].Name != "v1alpha1" {
		check(fmt.Errorf("expected the one version v1alpha1 in the CRD of %s", version))
	}
	root := crd.Spec.Versions[0].Schema.Root
	// Nobody writes a status; the controller does.
	root.Properties = map[string]*schema{"spec": root.Properties["spec"]}
	root.Required = []string{"spec"}
	t := &table{numbers: map[string]int{}}
	t.kind(root)
	fmt.Printf("# Fields of a Rollout in Argo Rollouts %s, by tests/cluster/fields. The last line is the object itself.\n", version)
	fmt.Println(strings.Join(t.lines, "\n"))
}

// The sign of a type. The mappings within it come first in the table.
func (t *table) kind(s *schema) string {
	switch {
	case s.IntOrString:
		return "x"
	case s.Type == "string":
		return "s"
	case s.Type == "integer":
		return "i"
	case s.Type == "number":
		return "n"
	case s.Type == "boolean":
		return "b"
	case s.Type == "array":
		if s.Items.KeepsUnknown && s.Items.Properties == nil {
			return "[*"
		}
		return "[" + t.kind(s.Items)
	case s.Values != nil:
		return "{" + t.kind(s.Values)
	case s.Properties == nil && s.KeepsUnknown:
		return "*"
	case s.Type == "object":
		return fmt.Sprint(t.mapping(s))
	case s.Type == "" && s.Properties == nil:
		return "*"
	}
	check(fmt.Errorf("a schema of type %q that this program does not know", s.Type))
	return ""
}

func (t *table) mapping(s *schema) int {
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	sort.Strings(names)
	var line strings.Builder
	if s.KeepsUnknown {
		line.WriteString(" +")
	}
	for _, name := range names {
		mark := ":"
		for _, required := range s.Required {
			if required == name {
				mark = "!"
			}
		}
		line.WriteString(" " + name + mark + t.kind(s.Properties[name]))
	}
	if number, known := t.numbers[line.String()]; known {
		return number
	}
	number := len(t.lines)
	t.numbers[line.String()] = number
	t.lines = append(t.lines, fmt.Sprint(number)+line.String())
	return number
}

func moduleFacts() (version, dir string) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module).Output()
	check(err)
	facts := strings.Fields(string(out))
	if len(facts) != 2 {
		check(fmt.Errorf("%s is not downloaded: go mod download %s", module, module))
	}
	return facts[0], facts[1]
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "fields:", err)
		os.Exit(1)
	}
}
