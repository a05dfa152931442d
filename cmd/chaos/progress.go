package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/unibus/unibus/scenarios"
)

// tickerEvery is how often a scenario that says nothing new is shown again.
const tickerEvery = 5 * time.Second

// display prints a line when a scenario's phase or faults change, and a sign of life otherwise.
type display struct {
	w     io.Writer
	asJSN bool
	start time.Time

	mu    sync.Mutex
	last  map[string]scenarios.Progress
	shown map[string]time.Time
}

// newDisplay shows times since began, as the command's own lines do.
func newDisplay(w io.Writer, asJSON bool, began time.Time) *display {
	return &display{w: w, asJSN: asJSON, start: began, last: map[string]scenarios.Progress{}, shown: map[string]time.Time{}}
}

func (d *display) show(p scenarios.Progress) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.last[p.Scenario]
	d.last[p.Scenario] = p
	if p.Done == "" && l.Phase == p.Phase && l.Fault == p.Fault && time.Since(d.shown[p.Scenario]) < tickerEvery {
		return
	}
	d.shown[p.Scenario] = time.Now()
	if d.asJSN {
		if b, err := json.Marshal(p); err == nil {
			_, _ = fmt.Fprintf(d.w, "%s\n", b)
		}
		return
	}
	_, _ = fmt.Fprintln(d.w, d.line(p))
}

func (d *display) line(p scenarios.Progress) string {
	at := time.Since(d.start).Round(time.Second)
	head := fmt.Sprintf("%4d:%02d  %-19s", int(at.Minutes()), int(at.Seconds())%60, p.Scenario)
	if p.Done != "" {
		return fmt.Sprintf("%s %s  %s", head, word(p.Done), p.Why)
	}
	s := fmt.Sprintf("%s %s", head, p.Phase)
	if p.Fault != "" {
		s += "  [in force: " + p.Fault + "]"
	}
	if p.Ops > 0 {
		s += fmt.Sprintf("  %d ops, %d ok", p.Ops, p.OK)
	}
	return s
}

func word(status string) string {
	switch status {
	case "pass":
		return "PASS"
	case "fail":
		return "FAIL"
	case "not-run":
		return "NOT RUN"
	}
	return "INCONCLUSIVE"
}

// listen opens the socket that the suite's processes write their progress to. They take its end as the command's.
func (d *display) listen(path string) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the progress socket: %w", err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed by stop
			}
			go d.read(c)
		}
	}()
	return func() { _ = l.Close() }, nil
}

func (d *display) read(c net.Conn) {
	defer func() { _ = c.Close() }()
	sc := bufio.NewScanner(c)
	for sc.Scan() {
		var p scenarios.Progress
		if json.Unmarshal(sc.Bytes(), &p) == nil {
			d.show(p)
		}
	}
}
