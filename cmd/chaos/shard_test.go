package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
)

func TestParseShard(t *testing.T) {
	env := map[string]string{}
	get := func(k string) string { return env[k] }
	for in, want := range map[string]shard{"": {}, "1/1": {1, 1}, "2/4": {2, 4}, "4/4": {4, 4}} {
		if got, err := parseShard(in, get); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"0/4", "5/4", "1/0", "-1/4", "1", "/", "/4", "a/b", "1/2/3", "1/ 2"} {
		if got, err := parseShard(in, get); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
	env[testSharding] = "2"
	if got, err := parseShard("/4", get); err != nil || got != (shard{3, 4}) {
		t.Errorf("from %s: %v, %v", testSharding, got, err)
	}
	env[indexedJob] = "0"
	if got, err := parseShard("/4", get); err != nil || got != (shard{1, 4}) {
		t.Errorf("from %s: %v, %v", indexedJob, got, err)
	}
}

// TestShardsMakeUpTheWhole: every scenario is in exactly one part, and no part has much more to do than it must.
func TestShardsMakeUpTheWhole(t *testing.T) {
	all := scenarios.All()
	total, longest := 0, 0
	for _, sc := range all {
		total += max(sc.Seconds, 1)
		longest = max(longest, sc.Seconds)
	}
	for count := 1; count <= len(all); count++ {
		var names []string
		for i := range count {
			load := 0
			for _, sc := range (shard{i + 1, count}).pick(all) {
				names = append(names, sc.Name)
				load += max(sc.Seconds, 1)
			}
			if most := total/count + longest; load > most { // the bound of list scheduling
				t.Errorf("part %d of %d takes %d s, at most %d s would do", i+1, count, load, most)
			}
		}
		slices.Sort(names)
		if len(slices.Compact(slices.Clone(names))) != len(all) || len(names) != len(all) {
			t.Errorf("%d parts: %d scenarios, %d of them different, want %d", count, len(names), len(slices.Compact(names)), len(all))
		}
	}
}

// part writes one part of a sharded run.
func part(t *testing.T, dir string, seed uint64, planned []string, names ...string) string {
	t.Helper()
	for _, n := range names {
		writeBundle(t, filepath.Join(dir, n), false)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := reports.WriteIndex(dir, reports.RunInfo{ID: "r", Seed: seed, Planned: planned}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMerge(t *testing.T) {
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	plan := []string{"a", "b", "c"}
	ab, c := part(t, in("ab"), 7, plan, "a", "b"), part(t, in("c"), 7, plan, "c")
	elsewhere := in("elsewhere")
	writeBundleAbout(t, filepath.Join(elsewhere, "c"), "sha256:"+strings.Repeat("b", 64), false)
	part(t, elsewhere, 7, plan)
	whole := in("whole")
	expect(t, exitOK, "3 bundles of 2 parts", "merge", "--out", whole, ab, c)
	expect(t, exitOK, "sound", "verify", whole)
	for name, bad := range map[string]struct {
		parts []string
		says  string
	}{
		"one missing":   {[]string{ab}, "c is in none of them"},
		"one twice":     {[]string{ab, c, part(t, in("c2"), 7, plan, "c")}, "c is there twice"},
		"other seed":    {[]string{ab, part(t, in("seed"), 8, plan, "c")}, "has seed 8"},
		"other plan":    {[]string{ab, part(t, in("plan"), 7, []string{"c"}, "c")}, "another plan"},
		"not planned":   {[]string{ab, c, part(t, in("d"), 7, plan, "d")}, "was not planned"},
		"no plan":       {[]string{part(t, in("none"), 7, nil, "a")}, "does not say what was planned"},
		"no index":      {[]string{t.TempDir()}, "index.json is missing"},
		"damaged":       {[]string{ab, damaged(t, part(t, in("bad"), 7, plan, "c"))}, "another digest"},
		"other subject": {[]string{ab, elsewhere}, "speaks of subject"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			expect(t, exitUsage, bad.says, append([]string{"merge", "--out", out}, bad.parts...)...)
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
	expect(t, exitUsage, "is not empty", "merge", "--out", whole, ab, c)
}

func damaged(t *testing.T, part string) string {
	t.Helper()
	cut(t, filepath.Join(part, "c", reports.HistoryFile))
	return part
}
