// The custom processor of Gst-nvinferserver for a NERVE bundle: gives the graph its words, takes its labels.
#include <dlfcn.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "gstnvdsinfer.h"
#include "infer_custom_process.h"
#include "nerve_meta.h"
#include "nerve_tensors.h"
#include "nvdsmeta.h"

namespace dsis = nvdsinferserver;

namespace {

NvDsInferStatus refuse(const std::string& message) {
    std::fprintf(stderr, "nerve: %s\n", message.c_str());
    return NVDSINFER_CUSTOM_LIB_FAILED;
}

// The folder that this library lies in; its inputs lie beside it.
std::string own_folder() {
    Dl_info library;
    if (dladdr(reinterpret_cast<void*>(&own_folder), &library) == 0 || library.dli_fname == nullptr) return ".";
    const std::string path = library.dli_fname;
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

size_t elements(const dsis::InferDims& dims) {
    size_t product = 1;
    for (unsigned axis = 0; axis < dims.numDims; ++axis) product *= static_cast<size_t>(dims.d[axis]);
    return product;
}

// What others read of a frame's labels, with the memory that it points to.
struct Labels : NvDsInferSegmentationMeta {
    using Meta = NvDsInferSegmentationMeta;

    Labels() : Meta{} {}
    void point() { class_map = classes_of_pixels.data(); }

    std::vector<int> classes_of_pixels;
};

// The same for its confidence.
struct Confidence : NerveConfidence {
    using Meta = NerveConfidence;

    Confidence() : Meta{} {}
    void point() { confidence = values.data(); }

    std::vector<uint8_t> values;
};

template <typename Owner>
Owner* owner_of(gpointer data) {
    return static_cast<Owner*>(static_cast<typename Owner::Meta*>(static_cast<NvDsUserMeta*>(data)->user_meta_data));
}

template <typename Owner>
gpointer handed_over(std::unique_ptr<Owner> owner) {
    owner->point();
    return static_cast<typename Owner::Meta*>(owner.release());
}

template <typename Owner>
gpointer copy_meta(gpointer data, gpointer) {
    return handed_over(std::make_unique<Owner>(*owner_of<Owner>(data)));
}

template <typename Owner>
void release_meta(gpointer data, gpointer) {
    delete owner_of<Owner>(data);
    static_cast<NvDsUserMeta*>(data)->user_meta_data = nullptr;
}

// Gives a frame what `owner` holds; the lock of the batch is held.
template <typename Owner>
bool attach(NvDsFrameMeta* frame, NvDsMetaType type, std::unique_ptr<Owner> owner) {
    NvDsUserMeta* user_meta = nvds_acquire_user_meta_from_pool(frame->base_meta.batch_meta);
    if (user_meta == nullptr) return false;
    user_meta->user_meta_data = handed_over(std::move(owner));
    user_meta->base_meta.meta_type = type;
    user_meta->base_meta.copy_func = copy_meta<Owner>;
    user_meta->base_meta.release_func = release_meta<Owner>;
    nvds_add_user_meta_to_frame(frame, user_meta);
    return true;
}

class NerveProcessor : public dsis::IInferCustomProcessor {
   public:
    NerveProcessor() : inputs_(own_folder() + "/inputs") {}

    void supportInputMemType(dsis::InferMemType& type) override { type = dsis::InferMemType::kCpu; }

    NvDsInferStatus extraInputProcess(const std::vector<dsis::IBatchBuffer*>&, std::vector<dsis::IBatchBuffer*>& extra_inputs,
                                      const dsis::IOptions*) override {
        for (dsis::IBatchBuffer* input : extra_inputs) {
            const dsis::InferBufferDescription& wanted = input->getBufDesc();
            const size_t size = elements(wanted.dims) * wanted.elementSize;
            const std::string problem = inputs_.fill(wanted.name, input->getBufPtr(0), size);
            if (!problem.empty()) return refuse(problem);
        }
        return NVDSINFER_SUCCESS;
    }

    NvDsInferStatus inferenceDone(const dsis::IBatchArray* outputs, const dsis::IOptions* options) override {
        const dsis::IBatchBuffer* labels = find(outputs, "labels");
        const dsis::IBatchBuffer* confidence = find(outputs, "confidence");
        if (labels == nullptr || confidence == nullptr) return refuse("the model gave no labels and confidence");
        std::vector<NvDsFrameMeta*> frames;
        if (options == nullptr || options->getValueArray(OPTION_NVDS_FRAME_META_LIST, frames) != NVDSINFER_SUCCESS)
            return refuse("nvinferserver gave no list of frames with the labels");
        const dsis::InferDims& dims = labels->getBufDesc().dims;
        // The last two axes are height and width; an axis before them counts frames.
        if (dims.numDims < 2 || frames.empty()) return refuse("labels without height and width, or of no frame");
        const size_t pixels = static_cast<size_t>(dims.d[dims.numDims - 2]) * static_cast<size_t>(dims.d[dims.numDims - 1]);
        if (elements(dims) < pixels * frames.size() || elements(confidence->getBufDesc().dims) != elements(dims))
            return refuse("the model gave labels or confidence of fewer frames than it was given");
        for (size_t index = 0; index < frames.size(); ++index)
            if (!attach_frame(frames[index], *labels, *confidence, index, pixels))
                return refuse("the labels of a frame could not be attached to it");
        return NVDSINFER_SUCCESS;
    }

    void notifyError(NvDsInferStatus) override {}

   private:
    static const dsis::IBatchBuffer* find(const dsis::IBatchArray* outputs, const std::string& name) {
        for (uint32_t index = 0; outputs != nullptr && index < outputs->getSize(); ++index) {
            const dsis::IBatchBuffer* output = outputs->getBuffer(index);
            if (output->getBufDesc().name == name && output->getBufDesc().memType != dsis::InferMemType::kGpuCuda) return output;
        }
        return nullptr;
    }

    bool attach_frame(NvDsFrameMeta* frame, const dsis::IBatchBuffer& labels, const dsis::IBatchBuffer& confidence, size_t index,
                      size_t pixels) const {
        const dsis::InferBufferDescription& description = labels.getBufDesc();
        auto segmented = std::make_unique<Labels>();
        segmented->classes = static_cast<guint>(inputs_.bytes("class_mask"));
        segmented->height = static_cast<guint>(description.dims.d[description.dims.numDims - 2]);
        segmented->width = static_cast<guint>(description.dims.d[description.dims.numDims - 1]);
        segmented->classes_of_pixels.resize(pixels);
        const char* first = static_cast<const char*>(labels.getBufPtr(0)) + index * pixels * description.elementSize;
        if (!nerve::class_map(first, description.elementSize, pixels, segmented->classes_of_pixels.data())) return false;
        auto sure = std::make_unique<Confidence>();
        sure->height = segmented->height;
        sure->width = segmented->width;
        const uint8_t* values = static_cast<const uint8_t*>(confidence.getBufPtr(0)) + index * pixels;
        sure->values.assign(values, values + pixels);
        return attach_both(frame, std::move(segmented), std::move(sure));
    }

    static bool attach_both(NvDsFrameMeta* frame, std::unique_ptr<Labels> labels, std::unique_ptr<Confidence> confidence) {
        static char confidence_name[] = NERVE_CONFIDENCE_META;
        const NvDsMetaType confidence_type = nvds_get_user_meta_type(confidence_name);
        NvDsBatchMeta* batch = frame->base_meta.batch_meta;
        nvds_acquire_meta_lock(batch);
        const bool attached = attach(frame, static_cast<NvDsMetaType>(NVDSINFER_SEGMENTATION_META), std::move(labels)) &&
                              attach(frame, confidence_type, std::move(confidence));
        if (attached) frame->bInferDone = 1;
        nvds_release_meta_lock(batch);
        return attached;
    }

    const nerve::ConstantInputs inputs_;
};

}  // namespace

extern "C" dsis::IInferCustomProcessor* CreateInferServerCustomProcess(const char*, uint32_t) { return new NerveProcessor; }
