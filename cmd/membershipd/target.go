package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	// requestTimeout is for connecting and one request. It is longer than a node takes to answer at worst, and an operator whose cluster has no
	// quorum is told so within five seconds.
	requestTimeout = 4500 * time.Millisecond
	// listTimeout is for lists, which come page by page.
	listTimeout = time.Minute
)

// target is how a command reaches the cluster.
type target struct {
	servers       []string
	keyFile       string
	ca, cert, key string
	json          bool

	connection *pflag.FlagSet // what may come from the environment too
}

func (t *target) flags(c *cobra.Command) {
	fl := pflag.NewFlagSet("connection", pflag.ContinueOnError)
	fl.StringSliceVar(&t.servers, "server", []string{"nats://127.0.0.1:4222"}, "`URL`s of nodes: any one that answers will do")
	fl.StringVar(&t.keyFile, "nkey-file", "", "`file` with the nkey seed to log in with, mode 0600 or 0400")
	fl.StringVar(&t.ca, "ca", "", "`file` with the authorities of the nodes' certificates; with it, only encrypted connections are made")
	fl.StringVar(&t.cert, "cert", "", "`file` with this client's own certificate, if the nodes ask for one")
	fl.StringVar(&t.key, "key", "", "`file` with the key of --cert, mode 0600 or 0400")
	t.connection = fl
	c.PersistentFlags().AddFlagSet(fl)
	c.PersistentFlags().BoolVar(&t.json, "json", false, "print JSON")
}

// call connects, does one thing, and disconnects.
func (t *target) call(c *cobra.Command, getenv func(string) string, do func(context.Context, *control.Client) error) error {
	return t.callFor(c, getenv, requestTimeout, do)
}

func (t *target) callFor(c *cobra.Command, getenv func(string) string, timeout time.Duration, do func(context.Context, *control.Client) error) error {
	if err := fillFromEnv(t.connection, getenv); err != nil {
		return err
	}
	if t.keyFile == "" {
		return fmt.Errorf("--nkey-file is required: the seed of a key that may log in")
	}
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	conn, err := t.dial(ctx)
	if err == nil {
		defer conn.Close()
		err = do(ctx, conn)
	}
	if err != nil && t.json {
		err = errors.Join(err, printJSON(c.OutOrStdout(), errorDocument(err)))
	}
	return failed(err)
}

// dial logs in with the key alone: replies come to the inbox that belongs to it.
func (t *target) dial(ctx context.Context) (*control.Client, error) {
	key, err := client.LoadSeed(t.keyFile)
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	return control.Dial(ctx, client.Options{
		Servers: t.servers, Key: key, CAFile: t.ca, CertFile: t.cert, KeyFile: t.key, InboxPrefix: client.InboxPrefix(public),
	})
}

// errorDocument is what --json prints of a failure. One that is no answer of the cluster has no code.
func errorDocument(err error) any {
	var e *control.Error
	if !errors.As(err, &e) {
		e = &control.Error{Message: err.Error()}
	}
	return map[string]*control.Error{"error": e}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return failed(enc.Encode(v))
}

// print shows a result in the form that was asked for.
func (t *target) print(c *cobra.Command, v any, line string) error {
	if t.json {
		return printJSON(c.OutOrStdout(), v)
	}
	if line == "" {
		return nil
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), line)
	return err
}

// printTable shows records as JSON, or in columns under a heading.
func (t *target) printTable(c *cobra.Command, v any, heading string, rows []string) error {
	if t.json {
		return printJSON(c.OutOrStdout(), v)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	if heading != "" {
		rows = append([]string{heading}, rows...)
	}
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, r); err != nil {
			return err
		}
	}
	return w.Flush()
}

// printChange shows what became of a write, and where it is in force.
func (t *target) printChange(c *cobra.Command, ch control.Change, what string) error {
	line := fmt.Sprintf("%s (revision %d)", what, ch.Revision)
	if !ch.Changed {
		line = fmt.Sprintf("nothing to do: %s already (revision %d)", what, ch.Revision)
	}
	if len(ch.Applied) > 0 {
		line += ", in force on " + strings.Join(ch.Applied, ", ")
	}
	if len(ch.Pending) > 0 {
		line += "; not yet confirmed by " + strings.Join(ch.Pending, ", ")
	}
	return t.print(c, ch, line)
}
