package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// token stands in for the file that a user makes. It must not be taken for a secret in a manifest.
const token = "stand-in-for-the-token-of-the-user"

// scheme has the kinds that the manifests use, and no others.
var scheme = runtime.NewScheme()

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		core.AddToScheme, apps.AddToScheme, policy.AddToScheme, networking.AddToScheme, gateway.Install, monitoring.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
}

// decode reads the objects of a YAML file as the API server does with fieldValidation=Strict: fields that are unknown
// or there twice are errors, as are values of another type.
func decode(content []byte) ([]runtime.Object, error) {
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if isBlank(document) {
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in:\n%s", err, document)
		}
		objects = append(objects, object)
	}
}

func isBlank(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// manifest is what a kustomization renders to.
type manifest struct {
	name    string
	objects []runtime.Object
}

// kustomizations returns the folders below dir that can be rendered.
func kustomizations(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "kustomization.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no kustomization in %s: %v", dir, err)
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.ToSlash(filepath.Dir(file)))
	}
	return names
}

// tree returns this folder in memory, with the files that a user makes.
func tree(t *testing.T) filesys.FileSystem {
	t.Helper()
	memory := filesys.MakeFsInMemory()
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Base(name) == "token" {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return memory.WriteFile(path.Join("/", filepath.ToSlash(name)), content)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range kustomizations(t, "overlays") {
		if err := memory.WriteFile(path.Join("/", overlay, "token"), []byte(token+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	return memory
}

// render returns the objects of a kustomization, strictly decoded.
func render(memory filesys.FileSystem, name string) (*manifest, error) {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(memory, path.Join("/", name))
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w", name, err)
	}
	content, err := rendered.AsYaml()
	if err != nil {
		return nil, err
	}
	objects, err := decode(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &manifest{name: name, objects: objects}, nil
}

func mustRender(t *testing.T, memory filesys.FileSystem, name string) *manifest {
	t.Helper()
	m, err := render(memory, name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// monitored adds the component to an overlay, as a user does, and returns the name of the outcome.
func monitored(t *testing.T, memory filesys.FileSystem, overlay string) string {
	t.Helper()
	name := overlay + "-monitored"
	content := "resources: [../" + path.Base(overlay) + "]\nnamespace: adit\ncomponents: [../../components/monitoring]\n"
	if err := memory.WriteFile(path.Join("/", name, "kustomization.yaml"), []byte(content)); err != nil {
		t.Fatal(err)
	}
	return name
}

// manifests renders all that this folder has.
func manifests(t *testing.T) []*manifest {
	t.Helper()
	memory := tree(t)
	var all []*manifest
	for _, base := range kustomizations(t, "base") {
		all = append(all, mustRender(t, memory, base))
	}
	for _, overlay := range kustomizations(t, "overlays") {
		all = append(all, mustRender(t, memory, overlay), mustRender(t, memory, monitored(t, memory, overlay)))
	}
	return all
}

func TestManifests(t *testing.T) {
	for _, m := range manifests(t) {
		t.Run(m.name, func(t *testing.T) {
			for _, rule := range rules {
				for _, fault := range rule.check(m) {
					t.Errorf("%s: %s", rule.name, fault)
				}
			}
		})
	}
}

// TestFilesDecode decodes every file on its own, patches too, which may not say anything unknown either; and finds files
// that no kustomization uses.
func TestFilesDecode(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(name) != ".yaml" || entry.Name() == "kustomization.yaml" {
			return err
		}
		seen++
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(bytes.TrimSpace(withoutComments(content)), []byte("- op:")) {
			if _, err := decode(content); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		used, err := os.ReadFile(filepath.Join(filepath.Dir(name), "kustomization.yaml"))
		if err != nil {
			return err
		}
		if !bytes.Contains(withoutComments(used), []byte(entry.Name())) {
			t.Errorf("%s is not used by the kustomization.yaml beside it", name)
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Fatalf("%d files, %v", seen, err)
	}
}

func withoutComments(content []byte) []byte {
	var out []byte
	for line := range bytes.Lines(content) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			out = append(out, line...)
		}
	}
	return out
}

// Every component must be rendered by something above.
func TestComponentsAreUsed(t *testing.T) {
	used := "components/monitoring" // by monitored
	for _, overlay := range kustomizations(t, "overlays") {
		content, err := os.ReadFile(filepath.Join(overlay, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		used += string(withoutComments(content))
	}
	for _, component := range kustomizations(t, "components") {
		if !strings.Contains(used, component) {
			t.Errorf("%s is used by no overlay", component)
		}
	}
}

// TestDecodeIsStrict shows that the decoder finds what a person gets wrong.
func TestDecodeIsStrict(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n"
	for _, tt := range []struct{ name, content, want string }{
		{"unknown field", service + "  selectors: {a: b}\n", `unknown field "spec.selectors"`},
		{"field in another's place", service + "  ports: [{port: 80, containerPort: 80}]\n", `unknown field "spec.ports[0].containerPort"`},
		{"field twice", service + "  type: ClusterIP\n  type: NodePort\n", `"type" already set`},
		{"other type", service + "  ports: [{port: http}]\n", "cannot unmarshal string"},
		{"number in the environment", "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, env: [{name: PORT, value: 80}]}]}\n", "cannot unmarshal number"},
		{"unknown kind", "apiVersion: v1\nkind: Deployment\nmetadata: {name: a}\n", `no kind "Deployment" is registered for version "v1"`},
		{"sleep without its field", "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, lifecycle: {preStop: {sleep: 5}}}]}\n", "cannot unmarshal number"},
		{"sidecar without its place", "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {restartPolicy: Always, sidecars: []}}}\n", `unknown field "spec.template.spec.sidecars"`},
		{"gateway", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: {rules: [{timeout: 0s}]}\n", `unknown field "spec.rules[0].timeout"`},
		{"operator", "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nspec: {endpoints: []}\n", `unknown field "spec.endpoints"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decode([]byte(tt.content)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if objects, err := decode([]byte("# nothing\n---\n" + service + "  type: ClusterIP\n")); err != nil || len(objects) != 1 {
		t.Errorf("a good one: %d objects, %v", len(objects), err)
	}
}

// TestTokenIsNeeded tells what a user sees who has not made the token.
func TestTokenIsNeeded(t *testing.T) {
	memory := tree(t)
	if err := memory.RemoveAll("/overlays/quickstart/token"); err != nil {
		t.Fatal(err)
	}
	if _, err := render(memory, "overlays/quickstart"); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("rendered without a token: %v", err)
	}
}

// all returns the objects of one type.
func all[T runtime.Object](m *manifest) []T {
	var list []T
	for _, object := range m.objects {
		if object, ok := object.(T); ok {
			list = append(list, object)
		}
	}
	return list
}

// find returns the object of that type and name, or the zero value.
func find[T runtime.Object](m *manifest, name string) (found T) {
	for _, object := range all[T](m) {
		if nameOf(object) == name {
			return object
		}
	}
	return found
}

func nameOf(object runtime.Object) string {
	accessor, err := meta.Accessor(object)
	if err != nil {
		panic(err) // an object of the scheme without metadata
	}
	return accessor.GetName()
}

// workload is what makes pods.
type workload struct {
	kind, name string
	replicas   int32
	selector   *metav1.LabelSelector
	template   *core.PodTemplateSpec
	deployment *apps.Deployment  // or
	set        *apps.StatefulSet // the other
}

func (w *workload) String() string { return w.kind + " " + w.name }

func workloads(m *manifest) []*workload {
	var list []*workload
	for _, d := range all[*apps.Deployment](m) {
		list = append(list, &workload{"Deployment", d.Name, orOne(d.Spec.Replicas), d.Spec.Selector, &d.Spec.Template, d, nil})
	}
	for _, s := range all[*apps.StatefulSet](m) {
		list = append(list, &workload{"StatefulSet", s.Name, orOne(s.Spec.Replicas), s.Spec.Selector, &s.Spec.Template, nil, s})
	}
	return list
}

func orOne(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// container is a container and what it is.
type container struct {
	*core.Container
	sidecar bool   // a native one
	image   string // server, client, fileserver, or "" for others
}

func (w *workload) containers() []container {
	var list []container
	spec := &w.template.Spec
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		list = append(list, container{c, c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways, imageOf(c)})
	}
	for i := range spec.Containers {
		list = append(list, container{&spec.Containers[i], false, imageOf(&spec.Containers[i])})
	}
	return list
}

var images = []string{"server", "client", "fileserver"}

func imageOf(c *core.Container) string {
	repository, _, _ := strings.Cut(path.Base(c.Image), ":")
	if image, ours := strings.CutPrefix(repository, "adit-"); ours && slices.Contains(images, image) {
		return image
	}
	return ""
}

// runs returns the workload's container of an image.
func (w *workload) runs(image string) (container, bool) {
	for _, c := range w.containers() {
		if c.image == image {
			return c, true
		}
	}
	return container{}, false
}

// setting returns the value of a variable, or the default of the image.
func (c container) setting(name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return defaults(c.image)[name]
}

// port returns the number of the container's port of that name, 0 if it has none.
func (c container) port(name string) int32 {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}
