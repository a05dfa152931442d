package workload

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// filler is what pads a payload after its id.
const filler = "unibus."

// hash is stable over runs.
func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // a hash takes every write
	return h.Sum64()
}

// value is the n-th value that a client writes since its workload was set going: unique, and the same again for the same seed. A workload that goes on
// after a pause counts from the start again, so that the turn is part of the value: an id that comes twice is a message that the stream may drop,
// or, later than its window, keep twice.
func (c *client) value(n int) string {
	return fmt.Sprintf("%s.%d.%d.%08x", c.name, c.turn, n, uint32(c.env.Seed^c.env.Seed>>32))
}

// payload is id padded to size bytes.
func payload(id string, size int) []byte {
	if size <= len(id) {
		return []byte(id)
	}
	b := make([]byte, 0, size+len(filler))
	b = append(b, id...)
	b = append(b, ' ')
	for len(b) < size {
		b = append(b, filler...)
	}
	return b[:size]
}

// idOf takes the id out of a payload. One whose padding is not what was written comes back as "damaged:...", which nobody ever sent.
func idOf(data []byte) string {
	id, _, _ := strings.Cut(string(data), " ")
	if string(payload(id, len(data))) != string(data) {
		return "damaged:" + cut(string(data), 64)
	}
	return id
}
