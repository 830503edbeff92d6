// Verifies proofs with the packages of Go's checksum database. Reads one JSON object a line,
// answers each with a line: true, false.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type claim struct {
	Kind    string   `json:"kind"`
	Leaf    []byte   `json:"leaf"`
	Index   int64    `json:"index"`
	Size    int64    `json:"size"`
	Root    []byte   `json:"root"`
	Old     int64    `json:"old"`
	OldRoot []byte   `json:"old_root"`
	Hashes  [][]byte `json:"hashes"`
	Key     string   `json:"key"`
	Note    string   `json:"note"`
}

func hash(bytes []byte) (found tlog.Hash) {
	if len(bytes) != tlog.HashSize {
		panic("not a hash")
	}
	copy(found[:], bytes)
	return found
}

func hashes(all [][]byte) []tlog.Hash {
	found := []tlog.Hash{}
	for _, one := range all {
		found = append(found, hash(one))
	}
	return found
}

func verify(one claim) error {
	switch one.Kind {
	case "inclusion":
		return tlog.CheckRecord(hashes(one.Hashes), one.Size, hash(one.Root), one.Index, hash(one.Leaf))
	case "consistency":
		return tlog.CheckTree(hashes(one.Hashes), one.Size, hash(one.Root), one.Old, hash(one.OldRoot))
	case "note":
		verifier, err := note.NewVerifier(one.Key)
		if err != nil {
			return err
		}
		opened, err := note.Open([]byte(one.Note), note.VerifierList(verifier))
		if err != nil {
			return err
		}
		// Its own reading of the head; `tlog.ParseTree` takes the origin of Go's database only.
		var origin, root string
		var size int64
		if _, err := fmt.Sscanf(opened.Text, "%s\n%d\n%s\n", &origin, &size, &root); err != nil {
			return err
		}
		if origin != verifier.Name() {
			return fmt.Errorf("signed under another name")
		}
		return nil
	}
	panic("unknown kind")
}

func checked(line []byte) (verified bool) {
	defer func() {
		if recover() != nil {
			verified = false
		}
	}()
	var one claim
	if err := json.Unmarshal(line, &one); err != nil {
		return false
	}
	return verify(one) == nil
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := bufio.NewWriter(os.Stdout)
	defer answers.Flush()
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		fmt.Fprintln(answers, checked(line))
	}
}
