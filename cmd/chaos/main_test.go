package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// commandBound is far more than a command needs that starts no cluster, on a busy machine.
const commandBound = time.Minute

// built is the command as it is installed. It is built once, when the first test asks for it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// roleEnv makes the test binary play another program.
const roleEnv = "CHAOS_TEST_ROLE"

const (
	roleCommand = "command" // the command itself, whose own runs are played by the test binary too
	roleRun     = "run"     // a run that takes its time to clean up after an interrupt
	roleHolder  = "holder"  // a run that writes to a folder until it is killed
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleCommand:
		_ = os.Setenv(roleEnv, roleRun) // a name without a NUL
		main()
	case roleRun:
		playRun()
	case roleHolder:
		playHolder()
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a folder for temporary files
	}
	os.Exit(code)
}

// binary builds the command.
func binary(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "chaos-test-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "chaos")
		cmd := exec.Command("go", "build", "-o", built.path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build the command: %v", built.err)
	}
	return built.path
}

// said is how a command ended.
type said struct {
	code     int
	out, err string
}

// execute runs a binary in dir.
func execute(t *testing.T, dir, path string, env []string, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandBound) // the test's own has ended when it cleans up
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	if env != nil {
		cmd.Env = env
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("chaos %s: not done after %v", strings.Join(args, " "), commandBound)
	}
	if cmd.ProcessState == nil {
		t.Fatalf("chaos %s: %v", strings.Join(args, " "), err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// inProcess calls run, as main does.
func inProcess(t *testing.T, args ...string) said {
	t.Helper()
	dir := t.TempDir()
	var files [2]*os.File
	for i, name := range []string{"out", "err"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	out, errs := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = files[0], files[1]
	code := run(t.Context(), args)
	os.Stdout, os.Stderr = out, errs
	var texts [2]string
	for i, f := range files {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		texts[i] = string(b)
	}
	return said{code, texts[0], texts[1]}
}

// oneSentence holds what every refusal must look like: one line on standard error, in words, and no trace of the program's insides.
func oneSentence(t *testing.T, s said) {
	t.Helper()
	if !strings.HasPrefix(s.err, "chaos: ") || strings.Count(s.err, "\n") != 1 || !strings.HasSuffix(s.err, "\n") {
		t.Errorf("standard error is not one sentence: %q", s.err)
	}
	for _, bad := range []string{"goroutine ", "panic", ".go:", "strconv", "Usage:", "%!"} {
		if strings.Contains(s.err, bad) {
			t.Errorf("the sentence contains %q: %q", bad, s.err)
		}
	}
}
