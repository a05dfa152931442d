package control_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

const readme = "README.md"

// types are the Go types that the document names.
var types = map[string]func() any{
	"none":               func() any { return new(struct{}) },
	"Change":             func() any { return new(control.Change) },
	"GetRequest":         func() any { return new(control.GetRequest) },
	"ListResponse":       func() any { return new(control.ListResponse) },
	"PageRequest":        func() any { return new(control.PageRequest) },
	"PutRequest":         func() any { return new(control.PutRequest) },
	"PutResponse":        func() any { return new(control.PutResponse) },
	"Role":               func() any { return new(control.Role) },
	"RoleListResponse":   func() any { return new(control.RoleListResponse) },
	"RolePutRequest":     func() any { return new(control.RolePutRequest) },
	"RoleRequest":        func() any { return new(control.RoleRequest) },
	"Room":               func() any { return new(control.Room) },
	"RoomCreateRequest":  func() any { return new(control.RoomCreateRequest) },
	"RoomGrantRequest":   func() any { return new(control.RoomGrantRequest) },
	"RoomListResponse":   func() any { return new(control.RoomListResponse) },
	"RoomRequest":        func() any { return new(control.RoomRequest) },
	"RoomRevokeRequest":  func() any { return new(control.RoomRevokeRequest) },
	"ScaleRequest":       func() any { return new(control.ScaleRequest) },
	"Setting":            func() any { return new(control.Setting) },
	"Status":             func() any { return new(health.Status) },
	"User":               func() any { return new(control.User) },
	"UserAddRequest":     func() any { return new(control.UserAddRequest) },
	"UserImportRequest":  func() any { return new(control.UserImportRequest) },
	"UserImportResponse": func() any { return new(control.UserImportResponse) },
	"UserListResponse":   func() any { return new(control.UserListResponse) },
	"UserRequest":        func() any { return new(control.UserRequest) },
	"UserRotateRequest":  func() any { return new(control.UserRotateRequest) },
	"UserSetRoleRequest": func() any { return new(control.UserSetRoleRequest) },
}

// constants are the values of this package's constants whose names begin so, read from its source: a new one cannot be forgotten here.
func constants(t *testing.T, prefix, typed string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
				return true
			}
			if id, _ := spec.Type.(*ast.Ident); (id == nil) != (typed == "") || id != nil && id.Name != typed {
				return true
			}
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				v, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, v)
			}
			return true
		})
	}
	return values
}

// section is one endpoint in the document.
type section struct {
	subject  string
	text     string
	examples []example
}

type example struct {
	part, typ string // "Request" or "Answer", and the Go type
	body      string
}

var (
	heading = regexp.MustCompile("(?m)^### `([a-z0-9.]+)`$")
	block   = regexp.MustCompile("(?s)(Request|Answer) \\(`(\\w+)`\\):\n\n```json\n(.*?)\n```")
)

func sections(t *testing.T) []section {
	t.Helper()
	b, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	var all []section
	marks := heading.FindAllStringSubmatchIndex(string(b), -1)
	for i, m := range marks {
		end := len(b)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		s := section{subject: string(b[m[2]:m[3]]), text: string(b[m[1]:end])}
		for _, e := range block.FindAllStringSubmatch(s.text, -1) {
			s.examples = append(s.examples, example{part: e[1], typ: e[2], body: e[3]})
		}
		all = append(all, s)
	}
	return all
}

// TestEverythingIsDocumented: each subject and each code of this package is in the document, and nothing that is not in this package.
func TestEverythingIsDocumented(t *testing.T) {
	want := constants(t, "Subject", "")
	var have []string
	for _, s := range sections(t) {
		have = append(have, s.subject)
		if !strings.Contains(s.text, "\nWho: ") {
			t.Errorf("%s: it does not say who may call it", s.subject)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if len(want) < 20 || !slices.Equal(want, have) {
		t.Errorf("the package has  %v,\nand the document %v", want, have)
	}
	b, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	codes := constants(t, "", "Code")
	if len(codes) < 6 {
		t.Errorf("only %v", codes)
	}
	for _, c := range codes {
		if !strings.Contains(string(b), "\n| `"+c+"` |") {
			t.Errorf("the code %q is not documented", c)
		}
	}
}

// TestExamples: each example is exactly what its Go type makes of it: no field unknown, none missing that is always there.
func TestExamples(t *testing.T) {
	for _, s := range sections(t) {
		if len(s.examples) != 2 || s.examples[0].part != "Request" || s.examples[1].part != "Answer" {
			t.Errorf("%s: want one request and one answer, there are %d examples", s.subject, len(s.examples))
		}
		for _, e := range s.examples {
			make, ok := types[e.typ]
			if !ok {
				t.Errorf("%s: the type %s is not known", s.subject, e.typ)
				continue
			}
			value := make()
			d := json.NewDecoder(strings.NewReader(e.body))
			d.DisallowUnknownFields()
			if err := d.Decode(value); err != nil {
				t.Errorf("%s: the example of %s: %v", s.subject, e.typ, err)
				continue
			}
			again, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(generic(t, []byte(e.body)), generic(t, again)) {
				t.Errorf("%s: the example of %s is\n%s\nand the type makes of it\n%s", s.subject, e.typ, e.body, again)
			}
		}
	}
}

func generic(t *testing.T, body []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
