//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	cases := []struct {
		name        string
		args        []string
		stdin       string
		code        int
		out, errOut string // must be contained
	}{
		{"help", []string{"--help"}, "", exitOK, "", "-data-dir"},
		{"version", []string{"--version"}, "", exitOK, versionString(), ""},
		{"unknown flag", []string{"--fly"}, "", exitUsage, "", "not defined"},
		{"argument", []string{"now"}, "", exitUsage, "", `unexpected argument "now"`},
		{"no daemon", []string{"--daemon", " , "}, "", exitUsage, "", "names no program"},
		{"end of input", nil, "", exitOK, "", "healed everything"},
		{"bad line", nil, "garbage\n", exitOK, `"code":"bad_request"`, "request failed"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			if code := run(tc.args, strings.NewReader(tc.stdin), &out, &errOut); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(out.String(), tc.out) || !strings.Contains(errOut.String(), tc.errOut) {
				t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
			}
		})
	}
}

func TestSplitNames(t *testing.T) {
	if got := splitNames(" a, ,b,"); strings.Join(got, "|") != "a|b" {
		t.Errorf("%q", got)
	}
}
