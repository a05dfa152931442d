// Package gate decides from proof bundles and a policy whether a subject may be deployed. It never takes a bundle's word: every bundle
// is verified, which judges its evidence again, before it counts.
package gate

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// PolicyFormat names the layout of a policy file.
const PolicyFormat = "unibus-policy/1"

// maxPolicyBytes bounds a policy file; real ones have two kilobytes.
const maxPolicyBytes = 1 << 20

// ErrPolicy is wrapped by every error about a policy's content.
var ErrPolicy = errors.New("the policy cannot be used")

//go:embed default.yaml
var defaultYAML []byte

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Claims is "all" or a list of claim ids.
type Claims struct {
	All bool
	IDs []string
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *Claims) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "all" {
			return fmt.Errorf("line %d: claims is %q: want \"all\" or a list of ids", n.Line, n.Value)
		}
		c.All = true
		return nil
	}
	if err := n.Decode(&c.IDs); err != nil {
		return err
	}
	if len(c.IDs) == 0 || slices.Contains(c.IDs, "") {
		return fmt.Errorf("line %d: claims is an empty list or has an empty id", n.Line)
	}
	return nil
}

// Requirement asks for proofs of one scenario.
type Requirement struct {
	Scenario string `yaml:"scenario"` // the scenario's name or its family
	Variant  string `yaml:"variant"`  // what it ran against; "" for the subject itself
	Claims   Claims `yaml:"claims"`
	// Have names claims that must be among them when Claims is "all": a scenario that lost a claim must not pass as before.
	Have []string `yaml:"have"`
}

// Name is the requirement in a sentence.
func (r Requirement) Name() string {
	if r.Variant == "" {
		return r.Scenario
	}
	return r.Scenario + " on " + r.Variant
}

// Controls are the negative controls that must have fired.
type Controls struct {
	Required     []Requirement `yaml:"required"`
	MinMutations int           `yaml:"min_mutations"` // damaged histories caught, over all required proofs
}

// Bound limits one figure of one claim.
type Bound struct {
	Scenario string   `yaml:"scenario"`
	Variant  string   `yaml:"variant"`
	Claim    string   `yaml:"claim"`
	Figure   string   `yaml:"figure"`
	Max      *float64 `yaml:"max"`
}

// Policy says what must be shown. The zero policy passes nothing.
type Policy struct {
	Format        string        `yaml:"format"`
	Name          string        `yaml:"name"`
	Require       []Requirement `yaml:"require"`
	Controls      Controls      `yaml:"controls"`
	SubjectKind   string        `yaml:"subject_kind"` // "membershipd", or "" for any one
	Subject       string        `yaml:"subject"`      // sha256:<hex>, or "" for any one
	MaxAge        time.Duration `yaml:"max_age"`      // 0 for any age
	AllowBackends []string      `yaml:"allow_backends"`
	Bounds        []Bound       `yaml:"bounds"`
}

// DefaultYAML is the built-in policy as a file.
func DefaultYAML() []byte { return slices.Clone(defaultYAML) }

// Default is the built-in policy.
func Default() (Policy, error) { return Parse(defaultYAML) }

// Parse reads a policy, YAML or JSON. Unknown keys, doubled keys, a second document and requirements without sense are errors:
// a misspelt requirement would otherwise be none.
func Parse(b []byte) (Policy, error) {
	if len(b) > maxPolicyBytes {
		return Policy{}, fmt.Errorf("%w: it is larger than %d bytes", ErrPolicy, maxPolicyBytes)
	}
	var p Policy
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&p)
	if errors.Is(err, io.EOF) {
		return Policy{}, fmt.Errorf("%w: it is empty", ErrPolicy)
	}
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %s", ErrPolicy, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Policy{}, fmt.Errorf("%w: something follows the first document", ErrPolicy)
	}
	if err := p.check(); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return p, nil
}

func (p Policy) check() error {
	switch {
	case p.Format != PolicyFormat:
		return fmt.Errorf("format is %q, this program reads %q", p.Format, PolicyFormat)
	case len(p.Require) == 0:
		return errors.New("it requires nothing, so that it could not stop anything")
	case p.Subject != "" && !digestForm.MatchString(p.Subject):
		return fmt.Errorf("subject is %q: want sha256: and 64 hex digits", p.Subject)
	case p.MaxAge < 0:
		return fmt.Errorf("max_age is %s", p.MaxAge)
	case p.Controls.MinMutations < 0:
		return fmt.Errorf("min_mutations is %d", p.Controls.MinMutations)
	case slices.Contains(p.AllowBackends, ""):
		return errors.New("allow_backends has an empty name")
	}
	if err := checkRequirements("require", p.Require); err != nil {
		return err
	}
	if err := checkRequirements("controls", p.Controls.Required); err != nil {
		return err
	}
	return checkBounds(p.Bounds)
}

func checkRequirements(where string, rs []Requirement) error {
	seen := map[string]bool{}
	for i, r := range rs {
		switch {
		case r.Scenario == "":
			return fmt.Errorf("%s entry %d names no scenario", where, i+1)
		case !r.Claims.All && len(r.Claims.IDs) == 0:
			return fmt.Errorf("%s entry %d (%s) names no claims: \"all\" or a list of ids", where, i+1, r.Scenario)
		case !r.Claims.All && len(r.Have) > 0, slices.Contains(r.Have, ""):
			return fmt.Errorf("%s entry %d (%s): have goes with \"claims: all\" and names ids", where, i+1, r.Scenario)
		case seen[r.Name()]:
			return fmt.Errorf("%s names %s twice", where, r.Name())
		}
		seen[r.Name()] = true
	}
	return nil
}

func checkBounds(bs []Bound) error {
	for i, b := range bs {
		switch {
		case b.Scenario == "" || b.Claim == "" || b.Figure == "":
			return fmt.Errorf("bounds entry %d must name scenario, claim and figure", i+1)
		case b.Max == nil:
			return fmt.Errorf("bounds entry %d (%s %s) has no max", i+1, b.Scenario, b.Figure)
		case math.IsNaN(*b.Max) || math.IsInf(*b.Max, 0):
			return fmt.Errorf("bounds entry %d (%s %s) has no finite max", i+1, b.Scenario, b.Figure)
		}
	}
	return nil
}
