// What DeepStream's libraries do with metadata, on plain memory: metas are kept in the order in which they were attached.
#include "nvdsmeta.h"

#include <string>
#include <vector>

std::vector<NvDsUserMeta*> attached_metas;
static int metas_left = -1;  // in the pool; -1 is no limit

extern "C" {

void limit_metas(int count) { metas_left = count; }

NvDsUserMeta* nvds_acquire_user_meta_from_pool(NvDsBatchMeta* batch) {
    if (metas_left == 0 || batch->is_locked != 1) return nullptr;  // metadata is changed under the lock of its batch
    if (metas_left > 0) --metas_left;
    NvDsUserMeta* user_meta = new NvDsUserMeta{};
    user_meta->base_meta.batch_meta = batch;
    return user_meta;
}

void nvds_add_user_meta_to_frame(NvDsFrameMeta*, NvDsUserMeta* user_meta) { attached_metas.push_back(user_meta); }

void nvds_acquire_meta_lock(NvDsBatchMeta* batch) { ++batch->is_locked; }
void nvds_release_meta_lock(NvDsBatchMeta* batch) { --batch->is_locked; }

NvDsMetaType nvds_get_user_meta_type(gchar* descriptor) {
    if (std::string(descriptor) != "NERVE.SEGMENTATION.CONFIDENCE") return NVDS_INVALID_META;
    return NVDS_START_USER_META;
}
}
