package main

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
)

// The bounds are those of published tables; with no fail it is the "rule of three".
func TestUpperBound(t *testing.T) {
	for _, tc := range []struct {
		k, n int
		want float64
	}{{0, 100, 0.0295}, {0, 1, 0.95}, {1, 20, 0.2161}, {5, 50, 0.1989}, {3, 3, 1}, {0, 0, 1}} {
		if got := upperBound(tc.k, tc.n); math.Abs(got-tc.want) > 0.0005 {
			t.Errorf("%d of %d: %.4f, want %.4f", tc.k, tc.n, got, tc.want)
		}
	}
}

func TestRoundTakesTheWorstProof(t *testing.T) {
	for _, tc := range []struct {
		name, stdout string
		code         int
		want         reports.Status
	}{
		{"all pass", `{"proofs":[{"status":"pass","ops":3},{"status":"pass","ops":4}]}`, 0, reports.StatusPass},
		{"one fails", "{\"scenario\":\"x\"}\n" + `{"proofs":[{"status":"fail","why":"lost"},{"status":"inconclusive"}]}`, 1, reports.StatusFail},
		{"one says nothing", `{"proofs":[{"status":"inconclusive","why":"too few"},{"status":"pass"}]}`, 3, reports.StatusInconclusive},
		{"nothing was written", "", 3, reports.StatusInconclusive},
		{"no proofs", `{"proofs":[]}`, 0, reports.StatusInconclusive},
		{"good proofs, bad exit", `{"proofs":[{"status":"pass"}]}`, 3, reports.StatusInconclusive},
	} {
		r := round{Code: tc.code}
		r.read([]byte(tc.stdout), "chaos: something")
		if r.Status != string(tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, r.Status, tc.want)
		}
	}
}

func TestSoakVerdict(t *testing.T) {
	pass, fail, silent := round{Status: string(reports.StatusPass)}, round{Status: string(reports.StatusFail)}, round{Status: string(reports.StatusInconclusive)}
	for _, tc := range []struct {
		name string
		done []round
		want int
	}{
		{"clean", []round{pass, pass}, exitOK},
		{"a fail outranks", []round{pass, silent, fail}, exitFail},
		{"too many say nothing", []round{pass, silent}, exitInconclusive},
	} {
		s := &soak{flags: &runFlags{}, out: &bytes.Buffer{}, done: tc.done, total: len(tc.done)}
		err := s.verdict(t.Context())
		var e *exitError
		if got := exitOK; errors.As(err, &e) && e.code != tc.want || !errors.As(err, &e) && got != tc.want {
			t.Errorf("%s: %v, want exit %d", tc.name, err, tc.want)
		}
	}
}

// A round that Ctrl-C ended is no round: it is told apart, and is in no rate.
func TestSoakInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := &bytes.Buffer{}
	pass, ended := round{Status: string(reports.StatusPass)}, round{Status: roundInterrupted}
	s := &soak{flags: &runFlags{}, out: out, done: []round{pass, ended, pass, pass, ended}, total: 9}
	err := s.verdict(ctx)
	var e *exitError
	if !errors.As(err, &e) || e.code != exitInconclusive || !strings.Contains(err.Error(), "after 3 of 9 rounds") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"2 more rounds were interrupted", "3 rounds in", "3 pass, 0 fail, 0 inconclusive"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}
