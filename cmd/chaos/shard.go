package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/unibus/unibus/scenarios"
)

// Variables by which a scheduler tells one of several equal jobs which one it is, when --shard names only how many there are.
const (
	indexedJob   = "JOB_COMPLETION_INDEX" // Kubernetes, Indexed Job: from 0
	testSharding = "TEST_SHARD_INDEX"     // Bazel's test sharding: from 0
)

// shard is one of count equal parts of a run. The zero value is the whole run.
type shard struct {
	index, count int // index from 1
}

// parseShard reads "2/4". "/4" takes the index from the environment.
func parseShard(s string, getenv func(string) string) (shard, error) {
	if s == "" {
		return shard{}, nil
	}
	bad := fmt.Errorf("--shard %q is not such as 2/4 (or /4 with %s or %s set)", s, indexedJob, testSharding)
	left, right, ok := strings.Cut(s, "/")
	count, err := strconv.Atoi(right)
	if !ok || err != nil {
		return shard{}, bad
	}
	sh := shard{count: count}
	if left != "" {
		if sh.index, err = strconv.Atoi(left); err != nil {
			return shard{}, bad
		}
	} else {
		env := getenv(indexedJob)
		if env == "" {
			env = getenv(testSharding)
		}
		from0, err := strconv.Atoi(env)
		if err != nil {
			return shard{}, bad
		}
		sh.index = from0 + 1
	}
	if sh.count < 1 || sh.index < 1 || sh.index > sh.count {
		return shard{}, fmt.Errorf("--shard: there is no part %d of %d", sh.index, sh.count)
	}
	return sh, nil
}

func (s shard) String() string {
	if s.count == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.index, s.count)
}

// pick gives this shard's scenarios, in their order. Each scenario, the longest first, goes to the part that has the least to do, so that every
// machine packs the same way without asking another.
func (s shard) pick(list []scenarios.Scenario) []scenarios.Scenario {
	if s.count == 0 {
		return list
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b scenarios.Scenario) int { return b.Seconds - a.Seconds })
	load := make([]int, s.count)
	mine := map[string]bool{}
	for _, sc := range sorted {
		least := slices.Index(load, slices.Min(load))
		load[least] += max(sc.Seconds, 1)
		if least == s.index-1 {
			mine[sc.Name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(sc scenarios.Scenario) bool { return !mine[sc.Name] })
}

// applyShard keeps this part of the chosen scenarios, and notes the whole: a merge holds the parts against it.
func (s *session) applyShard() error {
	sh, err := parseShard(s.flags.shard, os.Getenv)
	if err != nil {
		return err
	}
	s.shard = sh
	for _, sc := range s.list {
		s.planned = append(s.planned, sc.Name)
	}
	slices.Sort(s.planned)
	s.list = sh.pick(s.list)
	if len(s.list) == 0 {
		return errors.New("--shard: there are more parts than scenarios, and nothing is left for this one")
	}
	if sh.count > 0 && !s.flags.seeded {
		return errors.New("--shard wants --seed: all parts must have the same one")
	}
	return nil
}
