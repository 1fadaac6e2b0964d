package discover

// operator is what is known of a kind of custom resource.
type operator struct {
	group string
	kinds []string // none is all of the group
	// paths lead to images: texts, or mappings of registry, repository, tag and digest.
	paths []string
	// chosen: where none of the paths is there, the operator takes an image that only it knows.
	chosen bool
	// elsewhere says why objects of the kind bring images that no file here can tell.
	elsewhere string
	// source is where the field's meaning is defined.
	source string
}

const (
	otherRepo = "what it installs lies in another repository, which is not here"
	ownImages = "its operator makes the names of the images itself"
)

// operators are custom resources that are met often. A PodSpec inside any custom resource is found without
// being listed here.
var operators = []operator{
	{group: "monitoring.coreos.com", kinds: []string{"Prometheus", "PrometheusAgent", "Alertmanager", "ThanosRuler"},
		paths: []string{".spec.image"}, chosen: true, source: "https://prometheus-operator.dev/docs/api-reference/api/"},
	{group: "monitoring.coreos.com", kinds: []string{"Prometheus"}, paths: []string{".spec.thanos.image"},
		source: "https://prometheus-operator.dev/docs/api-reference/api/"},
	{group: "operator.victoriametrics.com", kinds: []string{"VMSingle", "VMAgent", "VMAlert", "VMAuth", "VMAlertmanager", "VLSingle"},
		paths: []string{".spec.image"}, chosen: true, source: "https://docs.victoriametrics.com/operator/api/"},
	{group: "operator.victoriametrics.com", kinds: []string{"VMCluster"},
		paths: []string{".spec.vmstorage.image", ".spec.vmselect.image", ".spec.vminsert.image"}, chosen: true,
		source: "https://docs.victoriametrics.com/operator/api/"},
	{group: "opentelemetry.io", kinds: []string{"OpenTelemetryCollector"}, paths: []string{".spec.image"}, chosen: true,
		source: "https://github.com/open-telemetry/opentelemetry-operator/tree/main/docs/api"},
	{group: "opentelemetry.io", kinds: []string{"Instrumentation"},
		paths:  []string{".spec.java.image", ".spec.nodejs.image", ".spec.python.image", ".spec.dotnet.image", ".spec.go.image", ".spec.apacheHttpd.image", ".spec.nginx.image"},
		chosen: true, source: "https://github.com/open-telemetry/opentelemetry-operator/tree/main/docs/api"},
	{group: "jaegertracing.io", kinds: []string{"Jaeger"},
		paths:  []string{".spec.allInOne.image", ".spec.collector.image", ".spec.query.image", ".spec.agent.image", ".spec.ingester.image"},
		chosen: true, source: "https://www.jaegertracing.io/docs/1.76/deployment/operator/"},
	{group: "postgresql.cnpg.io", kinds: []string{"Cluster"}, paths: []string{".spec.imageName"}, chosen: true,
		source: "https://cloudnative-pg.io/documentation/current/cloudnative-pg.v1/"},
	{group: "postgresql.cnpg.io", kinds: []string{"ImageCatalog", "ClusterImageCatalog"}, paths: []string{".spec.images[*].image"},
		source: "https://cloudnative-pg.io/documentation/current/image_catalog/"},
	{group: "acid.zalan.do", kinds: []string{"postgresql"}, paths: []string{".spec.dockerImage"}, chosen: true,
		source: "https://postgres-operator.readthedocs.io/en/latest/reference/cluster_manifest/"},
	{group: "acid.zalan.do", kinds: []string{"postgresql"}, paths: []string{".spec.sidecars[*].image"},
		source: "https://postgres-operator.readthedocs.io/en/latest/reference/cluster_manifest/"},
	{group: "acid.zalan.do", kinds: []string{"OperatorConfiguration"},
		paths:  []string{".configuration.docker_image", ".configuration.connection_pooler.connection_pooler_image", ".configuration.logical_backup.logical_backup_docker_image"},
		source: "https://postgres-operator.readthedocs.io/en/latest/reference/operator_parameters/"},
	{group: "rabbitmq.com", kinds: []string{"RabbitmqCluster"}, paths: []string{".spec.image"}, chosen: true,
		source: "https://www.rabbitmq.com/kubernetes/operator/using-operator"},
	{group: "kafka.strimzi.io", kinds: []string{"Kafka"},
		paths:  []string{".spec.kafka.image", ".spec.zookeeper.image", ".spec.entityOperator.topicOperator.image", ".spec.entityOperator.userOperator.image", ".spec.cruiseControl.image", ".spec.kafkaExporter.image"},
		chosen: true, source: "https://strimzi.io/docs/operators/latest/configuring.html"},
	{group: "kafka.strimzi.io", kinds: []string{"KafkaConnect", "KafkaBridge", "KafkaMirrorMaker2"}, paths: []string{".spec.image"}, chosen: true,
		source: "https://strimzi.io/docs/operators/latest/configuring.html"},
	{group: "ceph.rook.io", kinds: []string{"CephCluster"}, paths: []string{".spec.cephVersion.image"}, chosen: true,
		source: "https://rook.io/docs/rook/latest/CRDs/Cluster/ceph-cluster-crd/"},
	{group: "minio.min.io", kinds: []string{"Tenant"}, paths: []string{".spec.image"}, chosen: true,
		source: "https://min.io/docs/minio/kubernetes/upstream/reference/operator-crd.html"},
	{group: "minio.min.io", kinds: []string{"Tenant"}, paths: []string{".spec.kes.image", ".spec.sideCars.containers[*].image"},
		source: "https://min.io/docs/minio/kubernetes/upstream/reference/operator-crd.html"},
	{group: "longhorn.io", kinds: []string{"EngineImage"}, paths: []string{".spec.image"},
		source: "https://github.com/longhorn/longhorn-manager/tree/master/k8s/pkg/apis/longhorn"},
	{group: "elasticsearch.k8s.elastic.co", kinds: []string{"Elasticsearch"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "kibana.k8s.elastic.co", kinds: []string{"Kibana"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "apm.k8s.elastic.co", kinds: []string{"ApmServer"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "beat.k8s.elastic.co", kinds: []string{"Beat"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "agent.k8s.elastic.co", kinds: []string{"Agent"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "logstash.k8s.elastic.co", kinds: []string{"Logstash"}, paths: []string{".spec.image"}, chosen: true, source: eck},
	{group: "pxc.percona.com", kinds: []string{"PerconaXtraDBCluster"},
		paths:  []string{".spec.pxc.image", ".spec.haproxy.image", ".spec.proxysql.image", ".spec.backup.image", ".spec.pmm.image", ".spec.logcollector.image"},
		source: "https://docs.percona.com/percona-operator-for-mysql/pxc/operator.html"},
	{group: "psmdb.percona.com", kinds: []string{"PerconaServerMongoDB"}, paths: []string{".spec.image", ".spec.backup.image", ".spec.pmm.image"},
		source: "https://docs.percona.com/percona-operator-for-mongodb/operator.html"},
	{group: "pgv2.percona.com", kinds: []string{"PerconaPGCluster"},
		paths:  []string{".spec.image", ".spec.proxy.pgBouncer.image", ".spec.backups.pgbackrest.image", ".spec.pmm.image"},
		source: "https://docs.percona.com/percona-operator-for-postgresql/2.0/operator.html"},
	{group: "redis.redis.opstreelabs.in", paths: []string{".spec.kubernetesConfig.image", ".spec.redisExporter.image"},
		source: "https://redis-operator.opstree.dev/docs/crd-reference/"},
	{group: "databases.spotahome.com", kinds: []string{"RedisFailover"},
		paths:  []string{".spec.redis.image", ".spec.sentinel.image", ".spec.redis.exporter.image", ".spec.sentinel.exporter.image"},
		chosen: true, source: "https://github.com/spotahome/redis-operator"},
	{group: "argoproj.io", kinds: []string{"Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate"},
		paths: []string{".spec.templates[*].container.image", ".spec.templates[*].script.image", ".spec.templates[*].sidecars[*].image",
			".spec.templates[*].initContainers[*].image", ".spec.templateDefaults.container.image"},
		source: "https://argo-workflows.readthedocs.io/en/latest/fields/"},
	{group: "argoproj.io", kinds: []string{"CronWorkflow"},
		paths:  []string{".spec.workflowSpec.templates[*].container.image", ".spec.workflowSpec.templates[*].script.image", ".spec.workflowSpec.templates[*].sidecars[*].image"},
		source: "https://argo-workflows.readthedocs.io/en/latest/fields/"},
	{group: "argoproj.io", kinds: []string{"Application", "ApplicationSet"}, elsewhere: otherRepo,
		source: "https://argo-cd.readthedocs.io/en/stable/operator-manual/application.yaml"},
	{group: "tekton.dev", kinds: []string{"Task", "ClusterTask", "StepAction"},
		paths:  []string{".spec.image", ".spec.steps[*].image", ".spec.sidecars[*].image", ".spec.stepTemplate.image"},
		source: "https://tekton.dev/docs/pipelines/tasks/"},
	{group: "tekton.dev", kinds: []string{"Pipeline", "PipelineRun", "TaskRun"},
		paths: []string{".spec.tasks[*].taskSpec.steps[*].image", ".spec.tasks[*].taskSpec.sidecars[*].image", ".spec.finally[*].taskSpec.steps[*].image",
			".spec.pipelineSpec.tasks[*].taskSpec.steps[*].image", ".spec.taskSpec.steps[*].image", ".spec.taskSpec.sidecars[*].image"},
		source: "https://tekton.dev/docs/pipelines/pipelines/"},
	{group: "operators.coreos.com", kinds: []string{"ClusterServiceVersion"}, paths: []string{".spec.relatedImages[*].image"},
		source: "https://olm.operatorframework.io/docs/concepts/crds/clusterserviceversion/"},
	{group: "operators.coreos.com", kinds: []string{"CatalogSource"}, paths: []string{".spec.image"},
		source: "https://olm.operatorframework.io/docs/concepts/crds/catalogsource/"},
	{group: "operators.coreos.com", kinds: []string{"Subscription"}, elsewhere: "what it installs is named by a catalog, which is not here",
		source: "https://olm.operatorframework.io/docs/concepts/crds/subscription/"},
	{group: "kubevirt.io", kinds: []string{"VirtualMachine"}, paths: []string{".spec.template.spec.volumes[*].containerDisk.image"}, source: kubevirt},
	{group: "kubevirt.io", kinds: []string{"VirtualMachineInstance"}, paths: []string{".spec.volumes[*].containerDisk.image"}, source: kubevirt},
	{group: "kubevirt.io", kinds: []string{"KubeVirt"}, elsewhere: ownImages, source: kubevirt},
	{group: "sparkoperator.k8s.io", kinds: []string{"SparkApplication"}, paths: []string{".spec.image", ".spec.driver.image", ".spec.executor.image"},
		source: "https://www.kubeflow.org/docs/components/spark-operator/"},
	{group: "nvidia.com", kinds: []string{"ClusterPolicy"}, paths: []string{".spec.*", ".spec.*.*"},
		source: "https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/"},
	{group: "k0s.k0sproject.io", kinds: []string{"ClusterConfig"}, paths: []string{".spec.images.*", ".spec.images.*.*"},
		source: "https://docs.k0sproject.io/stable/configuration/#specimages"},
	{group: "helm.cattle.io", kinds: []string{"HelmChart"}, paths: []string{".spec.jobImage"}, elsewhere: otherRepo, source: "https://docs.k3s.io/add-ons/helm"},
	{group: "helm.toolkit.fluxcd.io", kinds: []string{"HelmRelease"}, elsewhere: otherRepo, source: "https://fluxcd.io/flux/components/helm/"},
	{group: "kustomize.toolkit.fluxcd.io", kinds: []string{"Kustomization"}, elsewhere: otherRepo, source: "https://fluxcd.io/flux/components/kustomize/"},
	{group: "operator.tigera.io", kinds: []string{"Installation", "APIServer"}, elsewhere: ownImages,
		source: "https://docs.tigera.io/calico/latest/reference/installation/api"},
	{group: "install.istio.io", kinds: []string{"IstioOperator"}, elsewhere: ownImages, source: "https://istio.io/latest/docs/reference/config/istio.operator.v1alpha1/"},
	{group: "sailoperator.io", kinds: []string{"Istio", "IstioCNI", "ZTunnel"}, elsewhere: ownImages, source: "https://github.com/istio-ecosystem/sail-operator"},
	{group: "operator.knative.dev", kinds: []string{"KnativeServing", "KnativeEventing"}, elsewhere: ownImages, source: "https://knative.dev/docs/install/operator/"},
}

const (
	eck      = "https://www.elastic.co/guide/en/cloud-on-k8s/current/k8s-api-reference.html"
	kubevirt = "https://kubevirt.io/api-reference/"
)
