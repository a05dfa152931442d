package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/store"
)

// How much of the damage and of the differences people are shown; --json has all.
const (
	shownDamage      = 10
	shownDifferences = 20
	shownDigest      = 12
)

// storeCopy is one directory's copy of one stream, as --json prints it.
type storeCopy struct {
	Dir      string         `json:"dir"`
	Target   string         `json:"target"`
	Replicas int            `json:"replicas"`
	First    uint64         `json:"first"`
	Last     uint64         `json:"last"`
	Msgs     uint64         `json:"msgs"`
	Bytes    uint64         `json:"bytes"`
	Deleted  int            `json:"deleted"`
	Digest   string         `json:"digest,omitempty"`
	Corrupt  int            `json:"corrupt"`
	Damage   []store.Damage `json:"damage,omitempty"`
	Err      string         `json:"err,omitempty"`
}

// storeDiff is a stream on which directories do not agree.
type storeDiff struct {
	Target  string   `json:"target"`
	Dirs    []string `json:"dirs"`              // the copies that Lack counts from 0
	Without []string `json:"without,omitempty"` // directories that should have a copy and have none
	store.Comparison
}

type storeReport struct {
	At          time.Time   `json:"at"`
	Copies      []storeCopy `json:"copies"`
	Compared    int         `json:"compared"` // streams of which two or more copies were compared
	Differences []storeDiff `json:"differences,omitempty"`
}

func storeCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "store DIR...",
		Short: "Read stopped nodes' JetStream files, and compare them",
		Long: `store reads every stream from the files of a stopped node: what the server would find if it started now, and what is damaged.
With two or more directories it compares their copies of each stream and says which sequences differ.

A directory is a node's data directory (what --data-dir or store_dir says). Nothing is written. Ages are measured at the same
moment for all directories.

Exit codes: 0 no damage and no difference, 1 damage or differences, 2 a directory has no store, 3 a stream could not be read.`,
		Example: `  chaos store /var/lib/unibus
  chaos store --json n1/data n2/data n3/data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			r, err := readStores(cmd.Context(), dirs)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := r.print(cmd.OutOrStdout(), asJSON); err != nil {
				return &exitError{exitUsage, fmt.Errorf("print: %w", err)}
			}
			return r.verdict()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

// readStores reads all directories and compares the copies of each stream.
func readStores(ctx context.Context, dirs []string) (*storeReport, error) {
	r := &storeReport{At: time.Now().UTC(), Copies: []storeCopy{}}
	byTarget := map[string]map[string]store.Copy{}
	failed := map[string]map[string]bool{}
	for _, dir := range dirs {
		streams, err := store.Streams(dir)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
		for _, s := range streams {
			c, err := s.ReadAt(ctx, r.At)
			if ctx.Err() != nil {
				return nil, fmt.Errorf("read %s: %w", dir, ctx.Err())
			}
			r.Copies = append(r.Copies, newStoreCopy(dir, s, c, err))
			if err != nil {
				put(failed, s.Target(), dir, true)
				continue
			}
			put(byTarget, s.Target(), dir, c)
		}
	}
	return r, r.compare(ctx, dirs, byTarget, failed)
}

func put[V any](m map[string]map[string]V, target, dir string, v V) {
	if m[target] == nil {
		m[target] = map[string]V{}
	}
	m[target][dir] = v
}

func newStoreCopy(dir string, s store.Stream, c store.Copy, err error) storeCopy {
	out := storeCopy{Dir: dir, Target: s.Target(), Replicas: s.Config.Replicas}
	if err != nil {
		out.Err = err.Error()
		return out
	}
	out.First, out.Last, out.Msgs, out.Bytes = c.First, c.Last, c.Msgs, c.Bytes
	out.Deleted, out.Digest, out.Corrupt, out.Damage = c.Deleted, c.Digest, c.Corrupt(), c.Damaged
	return out
}

func (r *storeReport) compare(ctx context.Context, dirs []string, byTarget map[string]map[string]store.Copy, failed map[string]map[string]bool) error {
	targets := make([]string, 0, len(byTarget))
	for t := range byTarget {
		targets = append(targets, t)
	}
	sort.Strings(targets)
	for _, t := range targets {
		d := storeDiff{Target: t}
		var copies []store.Copy
		replicas := 0
		for _, dir := range dirs {
			c, ok := byTarget[t][dir]
			if ok {
				d.Dirs, copies = append(d.Dirs, dir), append(copies, c)
				replicas = max(replicas, c.Stream.Config.Replicas)
			} else if !failed[t][dir] {
				d.Without = append(d.Without, dir)
			}
		}
		if replicas < len(dirs) {
			d.Without = nil // not every node has a replica
		}
		if len(copies) > 1 {
			r.Compared++
			var err error
			if d.Comparison, err = store.Compare(ctx, copies); err != nil {
				return fmt.Errorf("compare %s: %w", t, err)
			}
		}
		if d.Sequences > 0 || len(d.Without) > 0 {
			r.Differences = append(r.Differences, d)
		}
	}
	return nil
}

// verdict is the exit code: a difference weighs more than a stream that could not be read.
func (r *storeReport) verdict() error {
	corrupt, unread := 0, 0
	for _, c := range r.Copies {
		corrupt += c.Corrupt
		if c.Err != "" {
			unread++
		}
	}
	switch {
	case corrupt > 0 || len(r.Differences) > 0:
		return &exitError{exitFail, fmt.Errorf("%d damaged places, %d streams differ", corrupt, len(r.Differences))}
	case unread > 0:
		return &exitError{exitInconclusive, fmt.Errorf("%d copies could not be read", unread)}
	case len(r.Copies) == 0:
		return &exitError{exitInconclusive, errors.New("there are no streams")}
	}
	return nil
}

func (r *storeReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	r.table(&b)
	r.damage(&b)
	for _, d := range r.Differences {
		d.text(&b)
	}
	if r.Compared > 0 && len(r.Differences) == 0 {
		fmt.Fprintf(&b, "%d streams compared: the copies are the same\n", r.Compared)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *storeReport) table(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "STREAM\tDIR\tR\tFIRST\tLAST\tMSGS\tBYTES\tDELETED\tDAMAGED\tDIGEST") // a builder never fails
	copies := append([]storeCopy(nil), r.Copies...)
	sort.SliceStable(copies, func(i, j int) bool { return copies[i].Target < copies[j].Target })
	for _, c := range copies {
		if c.Err != "" {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%d\tnot read: %s\n", c.Target, c.Dir, c.Replicas, c.Err)
			continue
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", c.Target, c.Dir, c.Replicas, c.First, c.Last, c.Msgs, c.Bytes,
			c.Deleted, c.Corrupt, c.Digest[:shownDigest])
	}
	_ = t.Flush() // a builder never fails
}

func (r *storeReport) damage(b *strings.Builder) {
	for _, c := range r.Copies {
		for i, d := range c.Damage {
			if i == shownDamage {
				fmt.Fprintf(b, "%s in %s: %d more places\n", c.Target, c.Dir, len(c.Damage)-i)
				break
			}
			note := ""
			if d.Crash {
				note = " (a crash may leave this)"
			}
			fmt.Fprintf(b, "%s in %s: %s: block %d offset %d, %d bytes, sequence about %d: %s%s\n",
				c.Target, c.Dir, d.Kind, d.Block, d.Offset, d.Length, d.Seq, d.Why, note)
		}
	}
}

func (d storeDiff) text(b *strings.Builder) {
	for _, dir := range d.Without {
		fmt.Fprintf(b, "%s: %s has no copy\n", d.Target, dir)
	}
	if d.Sequences > 0 {
		fmt.Fprintf(b, "%s: %d sequences differ\n", d.Target, d.Sequences)
	}
	for i, x := range d.Differences {
		if i == shownDifferences {
			fmt.Fprintf(b, "  and %d more ranges\n", len(d.Differences)-i)
			return
		}
		where := fmt.Sprintf("%d", x.First)
		if x.Last != x.First {
			where = fmt.Sprintf("%d..%d", x.First, x.Last)
		}
		var lack []string
		for _, n := range x.Lack {
			lack = append(lack, d.Dirs[n])
		}
		switch {
		case len(lack) > 0 && x.Vary:
			fmt.Fprintf(b, "  %s: not in %s, and not the same in the others\n", where, strings.Join(lack, ", "))
		case len(lack) > 0:
			fmt.Fprintf(b, "  %s: not in %s\n", where, strings.Join(lack, ", "))
		default:
			fmt.Fprintf(b, "  %s: not the same\n", where)
		}
	}
}
