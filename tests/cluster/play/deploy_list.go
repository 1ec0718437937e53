package main

// What is shipped, and the pages that say how to use it. Each makes its own application and its own proxies, which are pods.
var deployScenarios = []scenario{
	{"deploy/chart", "Helm renders what kustomize renders, and refuses bad values", alone("chart"), chart, true},
	{"deploy/accepted", "all manifests pass the API server, Pod Security restricted enforced", alone("accepted"), accepted, true},
	{"deploy/shipped", "the case as shipped, two proxies in pods with the shipped role", alone("shipped"), shipped, true},
	{"deploy/without-pods", "the same without the permission to read pods", alone("without-pods"), withoutPods, false},
	{"deploy/five-steps", "five steps as shipped, each verified at every proxy", alone("five-steps"), gatedSteps, false},
	{"deploy/inert-provider", "5.5 % and 50.5 %, published for nobody", alone("inert-provider"), inertProvider, false},
	{"deploy/replaced", "proxies come and go under load", alone("replaced"), replaced, false},
	{"deploy/settings", "a file beside the Rollout, for testers", alone("settings"), settings, false},
	{"deploy/sidecar", "the proxy beside its client", alone("sidecar"), sidecar, false},
	{"deploy/analysis", "what the AnalysisTemplates decide", alone("analysis"), verdicts, false},
	{"deploy/readme", "README.md: five steps with Helm, under load", alone("readme"), readme, true},
	{"deploy/own-overlay", "deploy/README.md: an overlay of a user's own", alone("own-overlay"), ownOverlay, false},
	{"deploy/migration", "docs/migration.md: from one Service, under load, and back", alone("migration"), migration, false},
	{"deploy/migration-ingress", "docs/migration.md: from ingress-nginx, and back", alone("migration-ingress"), migrationIngress, false},
}

// alone is a scene with nothing on it.
func alone(name string) *scene { return &scene{name: name, bare: true} }
