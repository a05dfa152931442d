package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/process"
	"github.com/unibus/unibus/sut/subject"
)

// finding is one line of 'chaos doctor'.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Note string `json:"note"`
	How  string `json:"mechanism,omitempty"` // what makes a fault here
}

func doctorCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what this machine can do: tools, engine, kernel, each fault and each scenario", Args: cobra.NoArgs,
		Example: "  chaos doctor\n  chaos doctor --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			fs := examine(cmd.Context())
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(fs)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 2, 2, ' ', 0)
			for _, f := range fs {
				note := f.Note
				if f.How != "" {
					note += " [" + f.How + "]"
				}
				_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\n", map[bool]string{true: "ok", false: "NO"}[f.OK], f.What, note)
			}
			return tw.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func examine(ctx context.Context) []finding {
	fs := []finding{toolchain(), tree()}
	engine, err := docker.Engine(ctx)
	have := docker.Missing()
	backend := docker.Name
	if err != nil {
		fs = append(fs, line("Docker engine", false, err.Error()+"; scenarios run as child processes on 127.0.0.1"))
		have, backend = process.Missing(), process.Name
	} else {
		fs = append(fs, line("Docker engine", true, engine))
	}
	fs = append(fs, owned(), line("processors", runtime.NumCPU() >= 2, fmt.Sprintf("%d; a cluster of three wants 2 or more", runtime.NumCPU())))
	for _, e := range faults.Catalogue() {
		why := have.Missing(e.Needs...)
		f := finding{What: "fault " + e.Name, OK: why == "", Note: e.Doc, How: e.Mechanism()}
		if why != "" {
			f.Note, f.How = "NOT RUN here: "+why, ""
		}
		fs = append(fs, f)
	}
	for _, s := range scenarios.All() {
		why := have.Missing(s.Needs...)
		note := s.Doc
		if why != "" {
			note = "NOT RUN here: " + why
		}
		fs = append(fs, line("scenario "+s.Name+" ("+backend+")", why == "", note))
	}
	return fs
}

func line(what string, ok bool, note string) finding { return finding{What: what, OK: ok, Note: note} }

func toolchain() finding {
	path, err := exec.LookPath("go")
	if err != nil {
		return line("Go toolchain", false, subject.ErrNoGo.Error()+"; verify, gate and report work without it")
	}
	return line("Go toolchain", true, path)
}

func tree() finding {
	dir, err := subject.FindSource(".")
	if err != nil {
		return line("source tree", false, err.Error()+"; verify, gate and report work without it")
	}
	return line("source tree", true, dir)
}

// owned says whether the kernel knows tables that vanish with their owner, which came with Linux 5.12.
func owned() finding {
	const what = "kernel heals partitions (owned nftables tables, Linux 5.12)"
	release := kernelRelease()
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil {
		return line(what, false, "this is not Linux, or its release cannot be read: the engine's own kernel decides, and the agent refuses where it cannot")
	}
	return line(what, a > 5 || a == 5 && b >= 12, "Linux "+release)
}
