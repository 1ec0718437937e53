package main

// The scenes, and what is played on them.

var (
	noScene    = &scene{name: "pods", bare: true}
	firstScene = &scene{name: "first-case", mode: empty}
	basicScene = &scene{name: "basic", mode: basic, object: canary(nil)}
	emptyScene = &scene{name: "empty", mode: empty, object: canary(fields{}), proxies: twoPorts}
	// The controller edits this Ingress, which nobody serves, and so has somebody to publish weights for.
	publishedScene = &scene{name: "published", mode: published, object: canary(fields{"nginx": fields{"stableIngress": "frontend"}}), extra: "ingress.yaml", proxies: twoPorts}
	albScene       = &scene{name: "alb", mode: published, object: canary(fields{"alb": fields{"ingress": "frontend", "servicePort": 5000}}), extra: "ingress.yaml"}
	dynamicScene   = &scene{name: "dynamic", mode: published, object: dynamicScale, extra: "ingress.yaml"}
	pingPongScene  = &scene{name: "ping-pong", mode: published, object: pingPong, extra: "ping-pong.yaml"}
	blueGreenScene = &scene{name: "blue-green", object: blueGreen}
	outageScene    = &scene{name: "outages", mode: empty, object: canary(fields{}), proxies: behindGate}
	checkScene     = &scene{name: "check", mode: empty, object: canary(fields{}), proxies: behindGate}
	judgedScene    = &scene{name: "analysis", mode: empty, object: judged, extra: "replicas.yaml", proxies: twoWithTemplates}
	watchedScene   = &scene{name: "watched", mode: empty, object: judged, extra: "replicas.yaml", proxies: slowly}
	replicasScene  = &scene{name: "replicas", mode: empty, object: canary(fields{}), extra: "replicas.yaml", proxies: twoReplicas}
)

var scenarios = append([]scenario{
	{"pods", "the kubelet double: identity, crash, an API server that is away, grace", noScene, pods, false},
	{"first-case", "33 %, pause, 100 %: triggered by a patch, promoted by the plugin", firstScene, firstCase, true},
	{"basic/first-case", "the same without trafficRouting: stable pods go as canary pods come", basicScene, firstCaseBriefly, true},

	{"empty/first-case", "33 %, pause, 100 %", emptyScene, firstCaseBriefly, false},
	{"empty/five-steps", "5, 10, 25, 50, 100 %", emptyScene, fiveSteps, true},
	{"empty/abort", "abort at 25 %, retry, promote --full", emptyScene, abortAndRetry, true},
	{"empty/undo", "undo at 10 %", emptyScene, undo, false},
	{"empty/third", "a third version while the second is at 50 %", emptyScene, third, false},
	{"empty/scale", "3, 5, 2 pods in the middle of it", emptyScene, scaled, false},
	{"empty/never-ready", "a canary that never becomes ready, undone", emptyScene, neverReady, false},
	{"empty/invalid", "a mistake in the steps at 25 %, mended", emptyScene, invalidSpec, false},
	{"empty/skip-all", "promote --skip-all-steps at 10 %", emptyScene, skipAll, false},
	{"empty/to-revision", "undo --to-revision, to a version whose pods are gone", emptyScene, toRevision, false},
	{"empty/recreated", "the Rollout is deleted and created again", emptyScene, recreated, false},
	{"empty/killed", "all canary processes killed at 50 %", emptyScene, killed, false},

	{"published/first-case", "33 %, pause, 100 %", publishedScene, firstCaseBriefly, true},
	{"published/five-steps", "5, 10, 25, 50, 100 %", publishedScene, fiveSteps, false},
	{"published/abort", "abort at 25 %, retry, promote --full", publishedScene, abortAndRetry, false},
	{"published/undo", "undo at 10 %", publishedScene, undo, false},
	{"published/third", "a third version while the second is at 50 %", publishedScene, third, false},
	{"published/scale", "3, 5, 2 pods in the middle of it", publishedScene, scaled, false},
	{"published/never-ready", "a canary that never becomes ready, undone", publishedScene, neverReady, false},
	{"published/505", "505 of 1000", publishedScene, fiveHundredFive, false},
	{"published/invalid", "a mistake in the steps at 25 %, mended", publishedScene, invalidSpec, false},
	{"published/skip-all", "promote --skip-all-steps at 10 %", publishedScene, skipAll, false},
	{"published/to-revision", "undo --to-revision, to a version whose pods are gone", publishedScene, toRevision, false},
	{"published/killed", "all canary processes killed at 50 %", publishedScene, killed, false},

	{"alb/experiment", "an Experiment with a weight beside the canary's", albScene, experiment, false},
	{"alb/header-route", "testers are led to the canary by a header, while the steps say so", albScene, headerRoute, false},
	{"dynamic", "dynamicStableScale: stable pods go and come, abort at 34 %", dynamicScene, shrinking, false},
	{"ping-pong", "Services change roles instead of selectors", pingPongScene, swapping, false},
	{"blue-green", "everything at once", blueGreenScene, blueAndGreen, false},
	{"outages/away", "the API server is away for 30 s, and the proxy is started again meanwhile", outageScene, serverAway, false},
	{"outages/410", "what the proxy has seen last is no longer known", outageScene, gone410, false},
	{"outages/restored", "etcd is restored from an older state", outageScene, restored, false},
	{"check", "every cause that splitway check knows, brought about", checkScene, checkAll, false},
	{"replicas", "two proxies, one of which hears nothing for a while", replicasScene, heldReplica, false},

	{"analysis/aborts-web", "a canary that fails 20 % is rolled back by its controller, which asks the proxies", judgedScene, aborts(byAnalysis, false), true},
	{"analysis/aborts-web-step", "the same, with the analysis as a step", judgedScene, aborts(byAnalysis, true), false},
	{"analysis/promotes-web", "a good one is promoted, judged beside the steps and between them", judgedScene,
		promotes(&byAnalysis, fields{"setWeight": 5}, byAnalysis.step(), fields{"setWeight": 100}), false},
	{"analysis/aborts-prometheus", "a canary that fails 20 % is rolled back by its controller, which asks Prometheus", judgedScene,
		withPrometheus(aborts(bySuccessRate, false)), false},
	{"analysis/aborts-prometheus-step", "the same, against the stable version, as a step", judgedScene, withPrometheus(aborts(againstStable, true)), false},
	{"analysis/promotes-prometheus", "a good one is promoted, judged beside the steps and between them", judgedScene,
		withPrometheus(promotes(&bySuccessRate, fields{"setWeight": 5}, againstStable.step(), fields{"setWeight": 100})), false},
	{"analysis/watched", "the same before a stranger's eyes: a real browser has the dashboard open", watchedScene, watchedOnScreen, false},
	{"analysis/twenty", "twenty good versions in a row, none of which is aborted", judgedScene, twenty, false},
}, deployScenarios...)
