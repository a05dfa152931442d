package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd/control"
)

func publicKey(t *testing.T) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func TestParseImport(t *testing.T) {
	a, b := publicKey(t), publicKey(t)
	for name, tc := range map[string]struct {
		text, role string
		want       []control.UserAddRequest
		err        string
	}{
		"roles from the line and from the flag": {
			text: "# users\n\nalice " + a + " trader\n\tbob  " + b + "\r\n", role: "member",
			want: []control.UserAddRequest{{Name: "alice", Key: a, Role: "trader"}, {Name: "bob", Key: b, Role: "member"}},
		},
		"no role at all":            {text: "alice " + a, err: "line 1: no role"},
		"one word":                  {text: "\nalice", role: "member", err: "line 2: 1 words"},
		"four words":                {text: "alice " + a + " member now", err: "line 1: 4 words"},
		"a seed instead of a key":   {text: "alice SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4", role: "member", err: "line 1: not valid: this is no public user nkey (U...) but a seed"},
		"a name in upper case":      {text: "Alice " + a, role: "member", err: "line 1: not valid"},
		"the same name twice":       {text: "alice " + a + "\nalice " + b, role: "member", err: "line 2: the name \"alice\" can be taken for that of line 1"},
		"names that look alike":     {text: "alice " + a + "\na1ice " + b, role: "member", err: "line 2: the name \"a1ice\" can be taken for that of line 1"},
		"the same key twice":        {text: "alice " + a + "\nbob " + a, role: "member", err: "line 2: the key of \"bob\" is that of line 1"},
		"a line that does not end":  {text: "alice " + a + "\n" + strings.Repeat("x", maxImportLine+1), role: "member", err: "line 2: "},
		"nothing but a byte of NUL": {text: "\x00", role: "member", err: "line 1: 1 words"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseImport(strings.NewReader(tc.text), tc.role)
			if tc.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || len(got) != len(tc.want) {
				t.Fatalf("%+v, %v", got, err)
			}
			for i := range got {
				if got[i].req != tc.want[i] {
					t.Errorf("user %d: %+v, want %+v", i, got[i].req, tc.want[i])
				}
			}
		})
	}
}

// A dry run reads the file, asks no cluster, and ends with an error for a file that has none or that is wrong.
func TestImportDryRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("alice "+publicKey(t)+" member\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := does(t, "user", "import", file, "--dry-run"); !strings.HasPrefix(out, "1 users can be imported") {
		t.Errorf("it says %q", out)
	}
	if err := os.WriteFile(file, []byte("# nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"user", "import", file, "--dry-run"}, noEnv, &out, &errs); code != exitUsage {
		t.Errorf("an empty file ends with %d", code)
	}
}

func FuzzParseImport(f *testing.F) {
	f.Add("alice UA4HOF77O6K7GPKCGYQRNM2SBEOK2CNGELCLJX7SD37BEXVNOUW6GPYN member\n", "")
	f.Add("a b\nc d e f", "member")
	f.Fuzz(func(t *testing.T, text, role string) {
		got, err := parseImport(strings.NewReader(text), role)
		for _, l := range got {
			if err == nil && (l.number < 1 || l.req.Name == "" || l.req.Role == "" || !nkeys.IsValidPublicUserKey(l.req.Key)) {
				t.Errorf("%q gave %+v", text, l)
			}
		}
	})
}
