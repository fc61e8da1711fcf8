// Stand-in for DeepStream's nvdsmeta.h: only what our library names, after the public API reference.
#pragma once

typedef void* gpointer;
typedef char gchar;
typedef int gint;
typedef unsigned int guint;
typedef float gfloat;
typedef int gboolean;

typedef enum { NVDS_INVALID_META = -1, NVDSINFER_SEGMENTATION_META = 13, NVDS_START_USER_META = 4096 } NvDsMetaType;
typedef gpointer (*NvDsMetaCopyFunc)(gpointer data, gpointer user_data);
typedef void (*NvDsMetaReleaseFunc)(gpointer data, gpointer user_data);

struct NvDsBatchMeta {
    int is_locked;
};

struct NvDsBaseMeta {
    NvDsBatchMeta* batch_meta;
    NvDsMetaType meta_type;
    NvDsMetaCopyFunc copy_func;
    NvDsMetaReleaseFunc release_func;
};

struct NvDsFrameMeta {
    NvDsBaseMeta base_meta;
    gboolean bInferDone;
};

struct NvDsUserMeta {
    NvDsBaseMeta base_meta;
    void* user_meta_data;
};

extern "C" {
NvDsUserMeta* nvds_acquire_user_meta_from_pool(NvDsBatchMeta* batch);
void nvds_add_user_meta_to_frame(NvDsFrameMeta* frame, NvDsUserMeta* user_meta);
void nvds_acquire_meta_lock(NvDsBatchMeta* batch);
void nvds_release_meta_lock(NvDsBatchMeta* batch);
NvDsMetaType nvds_get_user_meta_type(gchar* descriptor);
}
