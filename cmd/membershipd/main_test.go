package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd"
)

func noEnv(string) string { return "" }

func keyFile(t *testing.T, mode os.FileMode) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "k.nk")
	if err := os.WriteFile(path, seed, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitCodes(t *testing.T) {
	private, public := keyFile(t, 0o600), keyFile(t, 0o644)
	nobody := "--server=nats://127.0.0.1:1"
	for _, tc := range []struct {
		args string
		code int
		want string // in what is written to stderr
	}{
		{"", exitUsage, "a command is missing"},
		{"dance", exitUsage, "unknown command"},
		{"serve --name", exitUsage, "flag needs an argument"},
		{"serve", exitUsage, "--name is required"},
		{"serve extra", exitUsage, "unknown command"},
		{"serve --name n1 --data-dir /x --routes a:1,b:2", exitUsage, "at least 3"},
		{"serve --max-store lots", exitUsage, "--max-store"},
		{"serve --log-level loud", exitUsage, "--log-level"},
		{"serve --log-format xml", exitUsage, "--log-format"},
		{"serve --replicas three", exitUsage, "--replicas"},
		{"status", exitUsage, "--nkey-file is required"},
		{"status --nkey-file " + private + ".missing", exitFailed, "read the nkey seed"},
		{"status --nkey-file " + public, exitFailed, "can be read by others"},
		{"status " + nobody + " --nkey-file " + private, exitFailed, "connect to"},
		{"setting", exitUsage, "is missing"},
		{"setting put a", exitUsage, "want 2 argument"},
		{"setting put a b --expect -1 --nkey-file " + private, exitUsage, "not negative"},
		{"setting get " + nobody + " --nkey-file " + private, exitUsage, "want 1 argument"},
		{"scale --nkey-file " + private, exitUsage, "--replicas is required"},
		{"user", exitUsage, "one of add, import, list, show"},
		{"user dance", exitUsage, "unknown command"},
		{"user add", exitUsage, "want 1 argument"},
		{"user add alice --nkey-file " + private, exitUsage, "--nkey and --role are required"},
		{"user add alice --nkey U --role member", exitUsage, "--nkey-file is required"},
		{"user add alice --nkey U --role member --store file", exitUsage, "want kv or seed"},
		{"user add alice --nkey U --role member --seed-file x --nkey-file " + private, exitUsage, "for --store seed only"},
		{"user add alice --nkey U --role admin --store seed", exitUsage, "--seed-file is required"},
		{"user add alice --nkey U --role admin --store seed --seed-file " + private + ".json", exitFailed, "not a public user nkey"},
		{"user rotate alice --nkey-file " + private, exitUsage, "--nkey is required"},
		{"user set-role alice --nkey-file " + private, exitUsage, "want 2 argument"},
		{"user list " + nobody + " --nkey-file " + private, exitFailed, "no node could be reached"},
		{"user list " + nobody + " --cert x --nkey-file " + private, exitFailed, "without its key"},
		{"user list " + nobody + " --ca /nowhere --nkey-file " + private, exitFailed, "read the authorities"},
		{"role put r --stream S --nkey-file " + private, exitUsage, "want STREAM=consume"},
		{"role put r --bucket B --nkey-file " + private, exitUsage, "want BUCKET=read"},
		{"role put r --file x --publish a --nkey-file " + private, exitUsage, "exclude each other"},
		{"role put r --file /nowhere --nkey-file " + private, exitFailed, "no such file"},
		{"role put r --file " + private + " --nkey-file " + private, exitUsage, "not the JSON of a role"},
		{"role put r --expect -1 --nkey-file " + private, exitUsage, "not negative"},
		{"room create r --owner o --nkey-file " + private, exitUsage, "--owner and --subject are required"},
		{"room grant r u --nkey-file " + private, exitUsage, "--level is required"},
		{"key", exitUsage, "one of new, show"},
		{"key new " + private, exitFailed, "never replaced"},
		{"key new /nowhere/at/all.nk", exitFailed, "write the seed"},
		{"key show " + public, exitFailed, "can be read by others"},
		{"key show " + private, exitOK, ""},
		{"completion bash", exitOK, ""},
		{"version --verbose", exitUsage, "unknown flag"},
		{"version", exitOK, ""},
		{"--help", exitOK, ""},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), strings.Fields(tc.args), noEnv, &out, &errs)
			if code != tc.code || !strings.Contains(errs.String(), tc.want) {
				t.Errorf("got %d and %q, want %d and %q", code, errs.String(), tc.code, tc.want)
			}
			if n := strings.Count(errs.String(), "\n"); n > 1 {
				t.Errorf("the error has %d lines: %s", n, errs.String())
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{"UNIBUS_NAME": "from-env", "UNIBUS_DATA_DIR": "/env", "UNIBUS_REPLICAS": "1", "UNIBUS_LAME_DUCK": "7s", "UNIBUS_ROUTES": "a:1,b:2,c:3"}
	cfg := membershipd.DefaultConfig()
	var f serveFlags
	c := &cobra.Command{}
	addServeFlags(c, &cfg, &f)
	if err := c.ParseFlags([]string{"--name", "from-flag"}); err != nil {
		t.Fatal(err)
	}
	if err := fillFromEnv(c.Flags(), func(k string) string { return env[k] }); err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "from-flag" || cfg.DataDir != "/env" || cfg.Replicas != 1 || cfg.LameDuck.String() != "7s" || f.routes != "a:1,b:2,c:3" {
		t.Errorf("got %+v, %+v", cfg, f)
	}
	env["UNIBUS_MAX_STORE"], env["UNIBUS_REPLICAS"] = "", "many"
	err := fillFromEnv(newServe(noEnv).Flags(), func(k string) string { return env[k] })
	if err == nil || !strings.Contains(err.Error(), "UNIBUS_REPLICAS") {
		t.Errorf("got %v", err)
	}
}

// Every command has a help text, and those that do something an example.
func TestHelp(t *testing.T) {
	for _, c := range newRoot(noEnv).Commands() {
		if c.Short == "" || c.Example == "" && !c.HasSubCommands() && c.Name() != "help" && c.Name() != "completion" {
			t.Errorf("%s: no help or no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			if sub.Short == "" || sub.Example == "" {
				t.Errorf("%s: no help or no example", sub.CommandPath())
			}
		}
	}
}

func TestVersionJSON(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"version", "--json"}, noEnv, &out, &errs); code != exitOK {
		t.Fatalf("%d: %s", code, errs.String())
	}
	var v map[string]string
	if err := json.Unmarshal(out.Bytes(), &v); err != nil || v["version"] == "" {
		t.Errorf("%s: %v", out.String(), err)
	}
}
