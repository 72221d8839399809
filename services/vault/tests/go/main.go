// Checks a vault's log with nothing of ours: the packages that check Go's own checksum database.
//
// It reads checkpoint, keys, tiles and entries from the admin endpoint, proves every event and an older
// checkpoint from tiles alone, and checks what a certificate proves. Ends with "all held" or says what does not.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	address     = flag.String("address", "", "the admin endpoint, host:port")
	certs       = flag.String("certs", "", "the folder of the development certificates")
	who         = flag.String("who", "admin", "whose certificate")
	old         = flag.String("old", "", "a checkpoint fetched earlier")
	certificate = flag.String("certificate", "", "a certificate of erasure, a compact JWS")
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func hold(held bool, what string) {
	if !held {
		log.Fatalf("does not hold: %s", what)
	}
}

type vault struct{ client *http.Client }

func connect() vault {
	file := func(name string) string { return filepath.Join(*certs, name) }
	roots := x509.NewCertPool()
	hold(roots.AppendCertsFromPEM(must(os.ReadFile(file("ca.pem")))), "the authority is read")
	pair := must(tls.LoadX509KeyPair(file(*who+".pem"), file(*who+".key")))
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "localhost"}
	return vault{&http.Client{Transport: &http.Transport{TLSClientConfig: config}}}
}

func (v vault) get(path string) ([]byte, http.Header, error) {
	answer, err := v.client.Get("https://" + *address + "/log/" + path)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, body)
	}
	return body, answer.Header, err
}

// The vault as a reader of tiles: C2SP's paths are those of Go, without the height.
func (v vault) Height() int { return 8 }

func (v vault) SaveTiles([]tlog.Tile, [][]byte) {}

func (v vault) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, headers, err := v.get("tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		hold(strings.Contains(headers.Get("Cache-Control"), "immutable"), "tiles may be cached for ever")
		all = append(all, data)
	}
	return all, nil
}

// The tree that a signed checkpoint states.
func open(signed []byte, keys note.Verifiers) (string, tlog.Tree) {
	opened := must(note.Open(signed, keys))
	lines := strings.Split(opened.Text, "\n")
	hold(len(lines) >= 4, "a checkpoint has three lines")
	size := must(strconv.ParseInt(lines[1], 10, 64))
	return lines[0], tlog.Tree{N: size, Hash: must(tlog.ParseHash(lines[2]))}
}

// The events below a tile, each after its length in 16 bits.
func (v vault) entries(first, count int64) [][]byte {
	tile := tlog.Tile{H: 8, L: -1, N: first / 256, W: int(count)}
	path := strings.Replace(strings.TrimPrefix(tile.Path(), "tile/8/"), "data/", "entries/", 1)
	bundle, _, err := v.get("tile/" + path)
	must(bundle, err)
	var events [][]byte
	for len(bundle) > 0 {
		length := int(binary.BigEndian.Uint16(bundle))
		events = append(events, bundle[2:2+length])
		bundle = bundle[2+length:]
	}
	return events
}

type inclusion struct {
	Index int64    `json:"index"`
	Hash  string   `json:"hash"`
	Path  []string `json:"path"`
}

func (in inclusion) check(tree tlog.Tree) error {
	hash := func(text string) (hash tlog.Hash) { copy(hash[:], must(hex.DecodeString(text))); return }
	var proof tlog.RecordProof
	for _, text := range in.Path {
		proof = append(proof, hash(text))
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, in.Index, hash(in.Hash))
}

func checkCertificate(keys note.Verifiers) {
	parts := strings.Split(strings.TrimSpace(string(must(os.ReadFile(*certificate)))), ".")
	hold(len(parts) == 3, "a certificate is a compact JWS")
	var said struct {
		Proof struct {
			Checkpoint       string
			Fence, Destroyed inclusion
		}
	}
	payload := must(base64.RawURLEncoding.DecodeString(parts[1]))
	hold(json.Unmarshal(payload, &said) == nil, "its payload is JSON")
	_, tree := open([]byte(said.Proof.Checkpoint), keys)
	hold(said.Proof.Fence.check(tree) == nil, "the fence is in the certificate's log")
	hold(said.Proof.Destroyed.check(tree) == nil, "the destruction is in the certificate's log")
	said.Proof.Destroyed.Index--
	hold(said.Proof.Destroyed.check(tree) != nil, "another place in the log is not proved")
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	v := connect()
	text, _, err := v.get("keys")
	must(text, err)
	var verifiers []note.Verifier
	for _, key := range strings.Fields(string(text)) {
		verifiers = append(verifiers, must(note.NewVerifier(key)))
	}
	keys := note.VerifierList(verifiers...)

	signed, _, err := v.get("checkpoint")
	must(signed, err)
	origin, tree := open(signed, keys)
	hold(origin == verifiers[0].Name(), "the log signs under its own name")
	_, err = note.Open([]byte(strings.Replace(string(signed), "\n", "0\n", 2)), keys)
	hold(err != nil, "a changed checkpoint is refused")

	reader := tlog.TileHashReader(tree, v)
	proved := 0
	for first := int64(0); first < tree.N; first += 256 {
		count := tree.N - first
		if count > 256 {
			count = 256
		}
		for place, event := range v.entries(first, count) {
			index := first + int64(place)
			proof := must(tlog.ProveRecord(tree.N, index, reader))
			hold(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(event)) == nil, "an event is in the log")
			proved++
		}
	}
	hold(int64(proved) == tree.N, "every event is in its bundle")

	_, older := open(must(os.ReadFile(*old)), keys)
	hold(older.N < tree.N, "the older checkpoint is of a smaller log")
	proof := must(tlog.ProveTree(tree.N, older.N, reader))
	hold(tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash) == nil, "the log began as it said")
	hold(tlog.CheckTree(proof, tree.N, tree.Hash, older.N, tree.Hash) != nil, "another beginning is not proved")
	checkCertificate(keys)
	fmt.Printf("%d events, %d at the older checkpoint: all held\n", tree.N, older.N)
}
