//go:build linux

package agent

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
)

// FuzzRequest: whatever a line holds, decoding ends in a call or an error, and what passes the checks keeps their promises.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"method":"hello"}`, `{"id":2,"method":"partition","params":{"id":"x","peers":["192.0.2.1"],"in":true}}`, `{"id":-1}`, `[]`,
		`{"id":3,"method":"signal","params":{"signal":9}}`, `{"id":"a"}`, `{"method":"dial","params":{"address":"192.0.2.1:1","timeout_ms":-1}}`,
		`null`, `{"id":4,"method":"heal","params":null}`, "\x00", `{"id":18446744073709551616,"method":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := decodeCall(line)
		if err != nil {
			if codeOf(err) != CodeBadRequest {
				t.Errorf("code %q", codeOf(err))
			}
			return
		}
		if c.Method == "" {
			t.Error("a call without a method")
		}
		if p, err := decodeParams[PartitionParams](c.Params); err == nil {
			checkPartition(t, p)
		}
		if p, err := decodeParams[SignalParams](c.Params); err == nil {
			if s, err := p.signal(); err == nil && s != syscall.SIGKILL && s != syscall.SIGTERM && s != syscall.SIGSTOP && s != syscall.SIGCONT {
				t.Errorf("signal %v passed", s)
			}
		}
		_, _ = decodeParams[DialParams](c.Params)
		_, _ = decodeParams[HealParams](c.Params)
	})
}

func checkPartition(t *testing.T, p PartitionParams) {
	t.Helper()
	addrs, err := p.addrs()
	if err != nil {
		return
	}
	if len(addrs) == 0 || len(addrs) > maxPeers || p.ID == "" || !p.In && !p.Out {
		t.Errorf("passed: %+v", p)
	}
	for _, a := range addrs {
		if !a.Is4() || a.IsLoopback() || a.IsUnspecified() {
			t.Errorf("peer %v passed", a)
		}
	}
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", maxLine+1)
	r := newLineReader(strings.NewReader("a\n\n" + long + "\n b \r\nunfinished"))
	for _, want := range []struct {
		line string
		err  error
	}{{"a", nil}, {"", nil}, {"", errLineTooLong}, {"b", nil}, {"unfinished", io.EOF}, {"", io.EOF}} {
		line, err := readLine(r)
		if string(line) != want.line || !errors.Is(err, want.err) {
			t.Errorf("%q, %v; want %q, %v", line, err, want.line, want.err)
		}
	}
	if _, err := readLine(bufio.NewReaderSize(strings.NewReader(long), 16)); !errors.Is(err, io.EOF) {
		t.Errorf("an endless line: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	fields := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21"
	cases := []struct {
		in   string
		want stat
		ok   bool
	}{
		{"12 (membershipd) S" + fields, stat{"membershipd", 'S', 777}, true},
		{"12 (a) b) (c) T" + fields, stat{"a) b) (c", 'T', 777}, true},
		{"12 (short) S 1 2", stat{}, false},
		{"12 no brackets", stat{}, false},
		{"", stat{}, false},
		{")(", stat{}, false},
		{"12 (x) S" + strings.Replace(fields, "777", "-1", 1), stat{}, false},
	}
	for _, tc := range cases {
		got, err := parseStat([]byte(tc.in))
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("%q: %+v, %v", tc.in, got, err)
		}
	}
}
