# A GKE cluster for runs: CPU nodes for KFP and the CPU stages, H100 pools that grow from no nodes,
# a bucket, a registry, and who may use them. terraform init && terraform apply; see ../README.md.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  # What pods and nodes must agree on is said once, in the manifests.
  h100_nodes = yamldecode(file("${path.module}/../components/kueue/flavor.yaml")).spec
  pods       = yamldecode(file("${path.module}/../base/service-account.yaml")).metadata
  project = {
    for object in split("\n---\n", file("${path.module}/../overlays/gke-h100/project.yaml")) :
    yamldecode(object).kind => yamldecode(object)
  }

  # The one-GPU machine is sold on spot (and by flex-start, which the ComputeClass covers) only. Each
  # machine comes with its local SSDs.
  h100_pools = {
    h100-8g      = { machine_type = "a3-highgpu-8g", gpus = 8, local_ssds = 16, spot = false, max_nodes = 1 }
    h100-8g-spot = { machine_type = "a3-highgpu-8g", gpus = 8, local_ssds = 16, spot = true, max_nodes = 1 }
    h100-1g-spot = { machine_type = "a3-highgpu-1g", gpus = 1, local_ssds = 2, spot = true, max_nodes = 8 }
  }
}

resource "google_project_service" "used" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    "containerfilesystem.googleapis.com", # image streaming
    "iam.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

data "google_project" "this" {
  depends_on = [google_project_service.used]
}

resource "google_container_cluster" "this" {
  name                     = var.cluster
  location                 = var.region
  node_locations           = var.zones
  remove_default_node_pool = true
  initial_node_count       = 1
  networking_mode          = "VPC_NATIVE"
  datapath_provider        = "ADVANCED_DATAPATH" # enforces the network policies
  deletion_protection      = false               # so that terraform destroy can clean up

  ip_allocation_policy {}
  release_channel {
    channel = "REGULAR"
  }
  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }
  depends_on = [google_project_service.used]
}

# No taint: KFP itself, its driver pods (which tolerate nothing) and the CPU stages run here.
resource "google_container_node_pool" "cpu" {
  name     = "cpu"
  cluster  = google_container_cluster.this.id
  location = var.region

  autoscaling {
    total_min_node_count = 1
    total_max_node_count = 4
    location_policy      = "ANY"
  }
  node_config {
    machine_type    = "n2d-standard-16"
    disk_type       = "pd-balanced"
    disk_size_gb    = 500 # ingest and evaluate keep the data set on it
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    gvnic {
      enabled = true
    }
    gcfs_config {
      enabled = true
    }
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}

resource "google_container_node_pool" "h100" {
  for_each       = local.h100_pools
  name           = each.key
  cluster        = google_container_cluster.this.id
  location       = var.region
  node_locations = var.h100_zones

  initial_node_count = 0
  autoscaling {
    total_min_node_count = 0
    total_max_node_count = each.value.max_nodes
    location_policy      = "ANY" # wherever there is an H100
  }
  node_config {
    machine_type    = each.value.machine_type
    spot            = each.value.spot
    disk_type       = "pd-balanced"
    disk_size_gb    = 200
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    guest_accelerator {
      type  = local.h100_nodes.nodeLabels["cloud.google.com/gke-accelerator"]
      count = each.value.gpus
      gpu_driver_installation_config {
        gpu_driver_version = "LATEST"
      }
    }
    dynamic "taint" {
      for_each = local.h100_nodes.nodeTaints
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = { NoSchedule = "NO_SCHEDULE", NoExecute = "NO_EXECUTE" }[taint.value.effect]
      }
    }
    ephemeral_storage_local_ssd_config {
      local_ssd_count = each.value.local_ssds
    }
    gvnic {
      enabled = true
    }
    gcfs_config {
      enabled = true # the image of finetune, several GB of CUDA, starts before it is pulled
    }
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
  lifecycle {
    ignore_changes = [initial_node_count]
  }
}

resource "google_service_account" "nodes" {
  account_id   = split("@", local.project.ComputeClass.spec.nodePoolConfig.serviceAccount)[0]
  display_name = "Nodes of the scgpt-perturb cluster"
  depends_on   = [google_project_service.used]
}

resource "google_project_iam_member" "nodes" {
  for_each = toset(["roles/artifactregistry.reader", "roles/container.defaultNodeServiceAccount"])
  project  = var.project
  role     = each.key
  member   = google_service_account.nodes.member
}

resource "google_service_account" "runs" {
  account_id   = split("@", local.project.ServiceAccount.metadata.annotations["iam.gke.io/gcp-service-account"])[0]
  display_name = "Pods of scgpt-perturb's runs"
  depends_on   = [google_project_service.used]
}

# Workload Identity: the Kubernetes service account of the runs may act as this one.
resource "google_service_account_iam_member" "runs" {
  service_account_id = google_service_account.runs.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${local.pods.namespace}/${local.pods.name}]"
  depends_on         = [google_container_cluster.this]
}

resource "google_storage_bucket" "runs" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  depends_on                  = [google_project_service.used]
}

resource "google_storage_bucket_iam_member" "runs" {
  bucket = google_storage_bucket.runs.name
  role   = "roles/storage.objectUser"
  member = google_service_account.runs.member
}

# KFP's UI shows reports and logs out of the bucket.
resource "google_storage_bucket_iam_member" "ui" {
  bucket     = google_storage_bucket.runs.name
  role       = "roles/storage.objectViewer"
  member     = "principal://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global/workloadIdentityPools/${var.project}.svc.id.goog/subject/ns/${local.pods.namespace}/sa/ml-pipeline-ui"
  depends_on = [google_container_cluster.this]
}

resource "google_artifact_registry_repository" "images" {
  repository_id = "scgpt-perturb"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.used]
}
