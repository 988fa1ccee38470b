output "registry" {
  description = "REGISTRY for make push"
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "pipeline_root" {
  description = "defaultPipelineRoot in overlays/gke-h100/project.yaml"
  value       = "gs://${google_storage_bucket.runs.name}/runs"
}

output "service_account" {
  description = "The annotation in overlays/gke-h100/project.yaml"
  value       = google_service_account.runs.email
}

output "credentials" {
  description = "How kubectl gets to the cluster"
  value       = "gcloud container clusters get-credentials ${google_container_cluster.this.name} --region ${var.region} --project ${var.project}"
}
