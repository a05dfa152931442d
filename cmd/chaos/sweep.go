package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/docker"
)

func sweepCmd() *cobra.Command {
	var opts docker.SweepOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use: "sweep", Short: "Remove containers, networks, volumes and folders that dead runs left", Args: cobra.NoArgs,
		Long: `sweep removes what carries this project's label and whose harness process is dead. What a living run uses is never touched.
Every run does this by itself before it starts.`,
		Example: "  chaos sweep\n  chaos sweep --images      the cached images too",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			dirs, err := sweepFolders(ctx)
			if err != nil {
				return usage(err)
			}
			rep, err := docker.Sweep(ctx, opts)
			var engineErr error // where there is no engine, and so nothing of ours on it
			switch {
			case errors.Is(err, docker.ErrNoEngine):
				engineErr = err
			case errors.Is(err, docker.ErrSilentEngine):
				return usage(fmt.Errorf("whether it has something of ours is not known: %w", err))
			case err != nil:
				return usage(err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]any{"docker": rep, "processes": dirs, "engine": engineErr == nil})
			}
			_, err = fmt.Fprintf(out, "removed %d containers, %d networks, %d volumes, %d images, %d folders\n", rep.Containers, rep.Networks, rep.Volumes, rep.Images, dirs.Directories)
			if engineErr != nil {
				_, _ = fmt.Fprintln(out, "only folders: "+engineErr.Error())
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&opts.Images, "images", false, "remove the images too, which are a cache otherwise")
	cmd.Flags().StringVar(&opts.RunID, "run", "", "everything of this run, even if its harness lives")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
