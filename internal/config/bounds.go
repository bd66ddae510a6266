package config

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// This file bounds what a file may ask of the memory by the number of what is in
// it rather than by its bytes.

// Bounds of what is read; nobody writes more by hand.
const (
	maxFile     = 4 << 20  // bytes of a file,
	maxTotal    = 16 << 20 // and of all files of a folder,
	maxFiles    = 1000     // of which there are so many
	maxItems    = 50_000   // items and lines of all files
	maxValues   = 100_000  // of a file, once aliases are followed
	maxGroup    = 2000     // keys of a group: the parser compares each with each
	maxDepth    = 100      // groups and lists within each other
	maxPaths    = 16 << 20 // bytes of all key paths
	maxKeys     = 100_000  // beyond them, what aliases stand for has no place of its own
	maxExpanded = 4 << 20  // bytes of variables' values
	maxList     = 5000     // items of a list
	maxProblems = 1000     // that are told
)

// countItems is an upper bound of the items of a text, told before it is parsed:
// each needs one of these signs, or is the key or the value of one that does.
func countItems(text []byte) (n int) {
	for _, sign := range []string{"\n", ",", "[", "{", "- ", "? "} {
		n += bytes.Count(text, []byte(sign))
	}
	return n
}

// extent is how much a part of a file stands for, aliases included.
type extent struct {
	values  int64 // all below it
	widest  int   // keys of one group
	longest int   // items of one list
	depth   int
	paths   int64 // bytes of the paths of all that is below, from here
}

// measurer measures nodes, each once.
type measurer map[*yaml.Node]extent

// enough keeps sums from overflowing; it is beyond every bound.
const enough = 1 << 40

// measure tells how much a node stands for. Aliases that lead in a circle count
// as nothing here: the parser refuses them.
func (m measurer) measure(n *yaml.Node) extent {
	if e, known := m[n]; known {
		return e
	}
	m[n] = extent{} // under way
	var e extent
	switch n.Kind {
	case yaml.AliasNode:
		e = m.measure(n.Alias)
	case yaml.MappingNode, yaml.SequenceNode:
		step := 1
		if n.Kind == yaml.MappingNode {
			step = 2
		}
		if n.Kind == yaml.MappingNode {
			e.widest = len(n.Content) / 2
		} else {
			e.longest = len(n.Content)
		}
		for i := step - 1; i < len(n.Content); i += step {
			key := len("[10000]")
			if step == 2 {
				key = len(n.Content[i-1].Value) + 1
			}
			below := m.measure(n.Content[i])
			e.values = min(enough, e.values+1+below.values)
			e.depth, e.widest = max(e.depth, 1+below.depth), max(e.widest, below.widest)
			e.longest = max(e.longest, below.longest)
			e.paths = min(enough, e.paths+below.paths+int64(key)*(1+below.values))
		}
	}
	m[n] = e
	return e
}

// checkExtent tells if a file stands for more than anybody writes.
func checkExtent(top *yaml.Node) string {
	switch e := (measurer{}).measure(top); {
	case e.depth > maxDepth:
		return fmt.Sprintf("groups and lists are %d deep within each other; at most %d are allowed", e.depth, maxDepth)
	case e.widest > maxGroup:
		return fmt.Sprintf("a group has %d keys; at most %d are allowed", e.widest, maxGroup)
	case e.longest > maxList:
		return fmt.Sprintf("a list has %d items; at most %d are allowed", e.longest, maxList)
	case e.values > maxValues:
		return "document contains excessive aliasing" // as the parser says of its own bound, which is higher
	case e.paths > maxPaths:
		return "its keys are too long"
	}
	return ""
}
